// The official Node.js client of Postmark, unmodified, against a running node: suppressions, and what they do to mail.
// Arguments: host:port, token of a server that may send from declared.example, and in which the operator has suppressed complained@js.example.
const assert = require("node:assert");
const { Errors, Models, ServerClient } = require("postmark");

const [requestHost, token] = process.argv.slice(2);
const client = new ServerClient(token, { requestHost, useHttps: false });
const { SuppressionOrigin, SuppressionReason } = Models;
const email = "Nothing+Create@js.example";
const mail = { From: "orders@declared.example", Subject: "js", TextBody: "Hi." };

async function refused(promise, type, code) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
    assert.deepStrictEqual([error.code, error.statusCode], [code, 422], error.message);
    return true;
  });
}

const entries = (...addresses) => ({ Suppressions: addresses.map((EmailAddress) => ({ EmailAddress })) });
const statuses = (answer) => answer.Suppressions.map((s) => [s.EmailAddress, s.Status, s.Message]);

(async () => {
  const made = await client.createSuppressions("outbound", entries(email, "no address"));
  assert.deepStrictEqual(statuses(made), [[email, "Suppressed", null], ["no address", "Failed", "An invalid email address was provided."]]);
  const filter = { emailAddress: email.toLowerCase(), origin: SuppressionOrigin.Customer, suppressionReason: SuppressionReason.ManualSuppression };
  const found = (await client.getSuppressions("outbound", filter)).Suppressions;
  assert.deepStrictEqual(found.map((s) => [s.EmailAddress, s.SuppressionReason, s.Origin]), [[email, "ManualSuppression", "Customer"]]);
  assert.ok(Math.abs(new Date(found[0].CreatedAt) - Date.now()) < 60_000, found[0].CreatedAt);
  assert.strictEqual((await client.getSuppressions("outbound")).Suppressions.length, 2);
  for (const none of [{ emailAddress: "invalid" }, { ...filter, origin: SuppressionOrigin.Admin }, { fromDate: "2999-01-01" }]) {
    assert.deepStrictEqual((await client.getSuppressions("outbound", none)).Suppressions, [], JSON.stringify(none));
  }
  assert.deepStrictEqual((await client.getSuppressions("broadcast")).Suppressions, []);

  // Postmark's clients find the addresses in the text.
  await assert.rejects(client.sendEmail({ ...mail, To: email.toUpperCase() }), (error) => {
    assert.ok(error instanceof Errors.InactiveRecipientsError, error.message);
    assert.deepStrictEqual(error.recipients, [email.toUpperCase()]);
    return true;
  });
  const some = await client.sendEmail({ ...mail, To: `${email}, ada@js.example` });
  assert.strictEqual(some.ErrorCode, 0);
  assert.deepStrictEqual(Errors.InactiveRecipientsError.parseInactiveRecipients(some.Message), [email]);
  assert.strictEqual((await client.sendEmail({ ...mail, To: email, MessageStream: "broadcast" })).ErrorCode, 0);

  const gone = await client.deleteSuppressions("outbound", entries(email.toLowerCase(), "complained@js.example", "never@js.example"));
  assert.deepStrictEqual(statuses(gone), [
    [email.toLowerCase(), "Deleted", null],
    ["complained@js.example", "Failed", "You do not have the required authority to change this suppression."],
    ["never@js.example", "Deleted", null],
  ]);
  assert.strictEqual((await client.sendEmail({ ...mail, To: email })).ErrorCode, 0);

  await refused(client.createSuppressions("nowhere", entries(email)), Errors.ApiInputError, 1226);
  await refused(client.getSuppressions("outbound", { origin: "Elsewhere" }), Errors.ApiInputError, 1405);
  await refused(client.deleteSuppressions("outbound", entries(...Array(51).fill(email))), Errors.ApiInputError, 1410);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
