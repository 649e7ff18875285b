// The official Node.js client of Postmark, unmodified, sends through a running node: plain, batch, attached, non-ASCII, and gets its errors.
// Arguments: host:port, server token of a server that may send from declared.example.
const assert = require("node:assert");
const { Attachment, Errors, Header, Message, ServerClient } = require("postmark");

const [requestHost, token] = process.argv.slice(2);
const options = { requestHost, useHttps: false };
const plain = { From: "Orders <orders@declared.example>", To: "Ada <ada@example.com>", Subject: "js plain", TextBody: "Hi." };

async function refused(promise, type, code, status = 422) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
    assert.deepStrictEqual([error.code, error.statusCode], [code, status], error.message);
    return true;
  });
}

(async () => {
  const client = new ServerClient(token, options);
  const sent = await client.sendEmail(plain);
  assert.deepStrictEqual([sent.To, sent.ErrorCode, sent.Message, sent.MessageID.length], [plain.To, 0, "OK", 36]);
  assert.ok(Math.abs(new Date(sent.SubmittedAt) - Date.now()) < 60_000, sent.SubmittedAt);

  const whole = new Message(plain.From, "Grüße 日本 – js", "<p>Grüße <img src=\"cid:logo.png\"></p>", "Grüße", "Zoë <zoe@example.com>, bo@example.com", "cy@example.com",
    "dan@example.com", "help@declared.example", "tag", true, "HtmlOnly", [new Header("X-Js", "yes")],
    [new Attachment("Ärger.txt", Buffer.from("Zeile\r\n").toString("base64"), "text/plain"),
     new Attachment("logo.png", Buffer.from([0x89, 0x50, 0, 255]).toString("base64"), "image/png", "cid:logo.png")], { order: "881" });
  whole.MessageStream = "outbound";
  assert.strictEqual((await client.sendEmail(whole)).To, whole.To);

  const batch = await client.sendEmailBatch([plain, { ...plain, To: "World" }, { ...plain, Subject: "js batch", MessageStream: "broadcast" }]);
  assert.deepStrictEqual(batch.map((item) => item.ErrorCode), [0, 300, 0]);

  await refused(client.sendEmail({ ...plain, To: "" }), Errors.ApiInputError, 300);
  await refused(client.sendEmail({ ...plain, From: "a@example.net" }), Errors.ApiInputError, 400);
  await refused(client.sendEmail({ ...plain, MessageStream: "none" }), Errors.ApiInputError, 1235);
  await refused(client.sendEmail({ ...plain, Attachments: [new Attachment("a.exe", "eA==", "application/octet-stream")] }), Errors.ApiInputError, 411);
  await refused(client.sendEmailBatch(Array(501).fill(plain)), Errors.ApiInputError, 410);
  await refused(new ServerClient("wrong", options).sendEmail(plain), Errors.InvalidAPIKeyError, 10, 401);
  const test = await new ServerClient("POSTMARK_API_TEST", options).sendEmail(plain);
  assert.strictEqual(test.Message, "Test job accepted");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
