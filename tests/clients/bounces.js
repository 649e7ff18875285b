// The official Node.js client of Postmark, unmodified, against a running node: bounces.
// Arguments: host:port, server token, id of the message whose only recipient, gone@js.example, bounced and is suppressed for it.
const assert = require("node:assert");
const { Errors, Models, ServerClient } = require("postmark");

const [requestHost, token, messageID] = process.argv.slice(2);
const client = new ServerClient(token, { requestHost, useHttps: false });

async function refused(promise, type, code) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
    assert.deepStrictEqual([error.code, error.statusCode], [code, 422], error.message);
    return true;
  });
}

(async () => {
  const { TotalCount, Bounces } = await client.getBounces({ count: 10, messageID });
  assert.strictEqual(TotalCount, 1);
  const [bounce] = Bounces;
  assert.deepStrictEqual(
    [bounce.Type, bounce.TypeCode, bounce.Email, bounce.MessageID, bounce.Tag, bounce.From, bounce.Subject, bounce.Inactive, bounce.CanActivate],
    ["HardBounce", 1, "gone@js.example", messageID, "welcome", "orders@declared.example", "Grüße", true, true],
  );
  assert.strictEqual(bounce.Details, "smtp;550 5.1.1 no such user");
  assert.ok(Math.abs(new Date(bounce.BouncedAt) - Date.now()) < 60_000, bounce.BouncedAt);
  assert.deepStrictEqual({ ...(await client.getBounce(bounce.ID)), Content: undefined }, { ...bounce, Content: undefined });
  assert.strictEqual((await client.getBounceDump(bounce.ID)).Body, "550 5.1.1 no such user\r\n");
  const filter = { type: Models.BounceType.HardBounce, inactive: true, emailFilter: "GONE@", tag: "welcome", fromDate: "2020-1-1", messageStream: "outbound" };
  assert.strictEqual((await client.getBounces(filter)).TotalCount, 1);
  for (const none of [{ type: Models.BounceType.SoftBounce }, { inactive: false }, { emailFilter: "else" }, { tag: "x" }, { toDate: "2020-01-01" }, { messageStream: "broadcast" }]) {
    assert.deepStrictEqual(await client.getBounces(none), { TotalCount: 0, Bounces: [] }, JSON.stringify(none));
  }
  const stats = await client.getDeliveryStatistics();
  assert.deepStrictEqual(stats, { InactiveMails: 1, Bounces: [{ Name: "All", Count: 1 }, { Type: "HardBounce", Name: "Hard bounce", Count: 1 }] });

  const activated = await client.activateBounce(bounce.ID);
  assert.deepStrictEqual([activated.Message, activated.Bounce.ID, activated.Bounce.Inactive], ["OK", bounce.ID, false]);
  assert.strictEqual((await client.getBounce(bounce.ID)).Inactive, false);
  const mail = { From: "orders@declared.example", To: "gone@js.example", TextBody: "again" };
  assert.strictEqual((await client.sendEmail(mail)).ErrorCode, 0);

  await refused(client.getBounces({ count: -1 }), Errors.ApiInputError, 1000);
  await refused(client.getBounces({ type: "Odd" }), Errors.ApiInputError, 1000);
  await refused(client.getBounce(1), Errors.ApiInputError, 1001);
  await refused(client.getBounceDump(1), Errors.ApiInputError, 1001);
  await refused(client.activateBounce(1), Errors.ApiInputError, 1001);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
