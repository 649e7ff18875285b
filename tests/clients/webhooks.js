// The official Node.js client of Postmark, unmodified, against a running node: webhooks.
// Arguments: host:port, server token, a URL that may be a hook.
const assert = require("node:assert");
const { Errors, ServerClient } = require("postmark");

const [requestHost, token, url] = process.argv.slice(2);
const client = new ServerClient(token, { requestHost, useHttps: false });

async function refused(promise, code) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof Errors.ApiInputError, `${error.constructor.name}: ${error.message}`);
    assert.deepStrictEqual([error.code, error.statusCode], [code, 422], error.message);
    return true;
  });
}

(async () => {
  const wanted = {
    Url: url,
    MessageStream: "outbound",
    HttpAuth: { Username: "user", Password: "pass" },
    HttpHeaders: [{ Name: "X-Test", Value: "1" }],
    Triggers: {
      Open: { Enabled: true, PostFirstOpenOnly: true },
      Click: { Enabled: true },
      Delivery: { Enabled: true },
      Bounce: { Enabled: true, IncludeContent: true },
      SpamComplaint: { Enabled: true, IncludeContent: false },
      SubscriptionChange: { Enabled: true },
    },
  };
  const made = await client.createWebhook(wanted);
  assert.deepStrictEqual(made, { ID: made.ID, ...wanted });
  assert.deepStrictEqual(await client.getWebhook(made.ID), made);
  assert.deepStrictEqual((await client.getWebhooks()).Webhooks, [made]);
  assert.deepStrictEqual((await client.getWebhooks({ messageStream: "broadcast" })).Webhooks, []);
  const edited = await client.editWebhook(made.ID, { Url: `${url}&again=1`, Triggers: { Open: { Enabled: false } } });
  assert.strictEqual(edited.Url, `${url}&again=1`);
  assert.deepStrictEqual(edited.Triggers, { ...made.Triggers, Open: { Enabled: false, PostFirstOpenOnly: true } });
  assert.deepStrictEqual(edited.HttpAuth, made.HttpAuth);
  const { ErrorCode, Message } = await client.deleteWebhook(made.ID);
  assert.deepStrictEqual([ErrorCode, Message], [0, `Webhook ${made.ID} removed.`]);
  await refused(client.getWebhook(made.ID), 1352);
  await refused(client.createWebhook({ Url: "no url" }), 1354);
  await refused(client.createWebhook({ Url: url, MessageStream: "inbound" }), 1351);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
