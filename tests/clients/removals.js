// The official Node.js client of Postmark, unmodified, against a running node: somebody asks to be forgotten.
// Arguments: host:port, account token, the address.
const assert = require("node:assert");
const { AccountClient, Errors } = require("postmark");

const [requestHost, token, address] = process.argv.slice(2);
const client = new AccountClient(token, { requestHost, useHttps: false });

(async () => {
  const made = await client.requestDataRemoval({ RequestedBy: "dpo@declared.example", RequestedFor: address, NotifyWhenCompleted: true });
  assert.deepStrictEqual(made, { ID: 1, Status: "Pending" });
  for (let tries = 0; ; tries++) {
    const { ID, Status } = await client.getDataRemovalStatus(made.ID);
    assert.strictEqual(ID, made.ID);
    if (Status === "Done") break;
    assert.ok(Status === "Pending" && tries < 300, Status);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await assert.rejects(client.getDataRemovalStatus(77), (error) => error instanceof Errors.ApiInputError && error.code === 1301);
  await assert.rejects(client.requestDataRemoval({ RequestedBy: "x", RequestedFor: address }), (error) => error.code === 1300);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
