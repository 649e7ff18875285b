// The official Node.js client of Postmark, unmodified, against a running node: domains and sender signatures.
// Arguments: host:port, account token.
const assert = require("node:assert");
const { AccountClient, Errors } = require("postmark");

const [requestHost, accountToken] = process.argv.slice(2);
const account = new AccountClient(accountToken, { requestHost, useHttps: false });

async function refused(promise, type, code, status = 422) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
    assert.deepStrictEqual([error.code, error.statusCode], [code, status], error.message);
    return true;
  });
}

async function domains() {
  const made = await account.createDomain({ Name: "js.example", ReturnPathDomain: "pm-bounces.js.example" });
  assert.deepStrictEqual([made.Name, made.DKIMVerified, made.DKIMUpdateStatus, made.DKIMHost], ["js.example", false, "Pending", ""]);
  assert.match(made.DKIMPendingHost, /^\d{14}pm\._domainkey\.js\.example$/);
  assert.deepStrictEqual(await account.getDomain(made.ID), made);
  const listed = await account.getDomains({ count: 10, offset: 0 });
  assert.strictEqual(listed.Domains.find((d) => d.ID === made.ID).Name, "js.example");
  assert.strictEqual(listed.TotalCount, listed.Domains.length);
  const edited = await account.editDomain(made.ID, { ReturnPathDomain: "other.js.example" });
  assert.strictEqual(edited.ReturnPathDomain, "other.js.example");
  assert.strictEqual((await account.verifyDomainDKIM(made.ID)).DKIMVerified, false);
  assert.strictEqual((await account.verifyDomainReturnPath(made.ID)).ReturnPathDomainVerified, false);
  assert.strictEqual((await account.verifyDomainSPF(made.ID)).SPFVerified, false);
  await refused(account.rotateDomainDKIM(made.ID), Errors.ApiInputError, 505);
  await refused(account.createDomain({ Name: "JS.example" }), Errors.ApiInputError, 512);
  await refused(account.createDomain({ Name: "gmail.com" }), Errors.ApiInputError, 503);
  await refused(account.createDomain({ Name: "no" }), Errors.ApiInputError, 516);
  await refused(account.getDomain(99999), Errors.ApiInputError, 510);
  await refused(account.getDomains({ count: -1 }), Errors.ApiInputError, 500);
  assert.match((await account.deleteDomain(made.ID)).Message, /removed/);
  await refused(account.getDomain(made.ID), Errors.ApiInputError, 510);
}

async function senders() {
  const made = await account.createSenderSignature({ Name: "JS", FromEmail: "js@js.example", ReplyToEmail: "re@js.example" });
  assert.deepStrictEqual([made.EmailAddress, made.Domain, made.Confirmed, made.ReplyToEmailAddress], ["js@js.example", "js.example", false, "re@js.example"]);
  assert.deepStrictEqual(await account.getSenderSignature(made.ID), made);
  assert.strictEqual((await account.getSenderSignatures({ count: 5 })).SenderSignatures[0].ID, made.ID);
  assert.strictEqual((await account.editSenderSignature(made.ID, { Name: "JS 2" })).Name, "JS 2");
  assert.match((await account.resendSenderSignatureConfirmation(made.ID)).Message, /re-sent/);
  assert.strictEqual((await account.verifySenderSignatureSPF(made.ID)).SPFVerified, false);
  await refused(account.requestNewDKIMForSenderSignature(made.ID), Errors.ApiInputError, 505);
  await refused(account.createSenderSignature({ Name: "JS", FromEmail: "JS@js.example" }), Errors.ApiInputError, 504);
  await refused(account.createSenderSignature({ Name: "JS", FromEmail: "js@gmail.com" }), Errors.ApiInputError, 503);
  await refused(account.createSenderSignature({ Name: "", FromEmail: "a@js.example" }), Errors.ApiInputError, 520);
  await refused(account.getSenderSignature(99999), Errors.ApiInputError, 501);
  assert.match((await account.deleteSenderSignature(made.ID)).Message, /removed/);
}

domains()
  .then(senders)
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
