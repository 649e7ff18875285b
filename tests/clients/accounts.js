// The official Node.js client of Postmark, unmodified, against a running node: servers and message streams.
// Arguments: host:port, account token, a server token that is good for one request.
const assert = require("node:assert");
const { AccountClient, ServerClient, Errors } = require("postmark");

const [requestHost, accountToken, limitedToken] = process.argv.slice(2);
const options = { requestHost, useHttps: false };

async function refused(promise, type, code, status = 422) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof type, `${error.constructor.name}: ${error.message}`);
    assert.deepStrictEqual([error.code, error.statusCode], [code, status], error.message);
    return true;
  });
}

async function servers(account) {
  const made = await account.createServer({ Name: "js shop", Color: "Purple", TrackLinks: "HtmlAndText", DeliveryType: "Live" });
  assert.strictEqual(made.Color, "purple");
  assert.strictEqual(made.ApiTokens.length, 1);
  const edited = await account.editServer(made.ID, { Name: "js shop 2", TrackOpens: true });
  assert.deepStrictEqual([edited.Name, edited.TrackOpens], ["js shop 2", true]);
  assert.deepStrictEqual(await account.getServer(made.ID), edited);
  const found = await account.getServers({ name: "js shop", count: 1 });
  assert.deepStrictEqual([found.TotalCount, found.Servers[0].ID], [1, made.ID]);
  await refused(account.createServer({ Name: "js shop 2" }), Errors.ApiInputError, 603);
  await refused(account.getServer(99999), Errors.ApiInputError, 601);
  await refused(account.getServers({ count: -1 }), Errors.ApiInputError, 600);
  await refused(new AccountClient("wrong", options).getServers(), Errors.InvalidAPIKeyError, 10, 401);
  return made;
}

async function streams(server) {
  const own = await server.getServer();
  assert.strictEqual((await server.editServer({ Name: "js own" })).Name, "js own");
  assert.strictEqual((await server.getMessageStreams()).TotalCount, 3);
  const made = await server.createMessageStream({ ID: "js-news", Name: "News", MessageStreamType: "Broadcasts" });
  assert.deepStrictEqual([made.ServerID, made.UpdatedAt, made.ArchivedAt], [own.ID, null, null]);
  assert.strictEqual((await server.getMessageStreams()).TotalCount, 4);
  const edited = await server.editMessageStream("js-news", { Name: "Weekly", Description: "x" });
  assert.deepStrictEqual([edited.Name, edited.Description], ["Weekly", "x"]);
  assert.strictEqual((await server.getMessageStream("js-news")).Name, "Weekly");
  const archived = await server.archiveMessageStream("js-news");
  assert.ok(new Date(archived.ExpectedPurgeDate) > new Date());
  const all = { messageStreamType: "Broadcasts", includeArchivedStreams: true };
  assert.strictEqual((await server.getMessageStreams(all)).TotalCount, 2);
  assert.strictEqual((await server.unarchiveMessageStream("js-news")).ArchivedAt, null);
  await refused(server.getMessageStream("none"), Errors.ApiInputError, 1226);
  await refused(server.createMessageStream({ ID: "js-news", Name: "n", MessageStreamType: "Broadcasts" }), Errors.ApiInputError, 1230);
  await refused(server.archiveMessageStream("outbound"), Errors.ApiInputError, 1229);
}

async function limit() {
  const limited = new ServerClient(limitedToken, options);
  assert.strictEqual((await limited.getServer()).Name, "limited");
  await refused(limited.getServer(), Errors.RateLimitExceededError, 429, 429);
}

(async () => {
  const account = new AccountClient(accountToken, options);
  const made = await servers(account);
  const server = new ServerClient(made.ApiTokens[0], options);
  await streams(server);
  await limit();
  // The other kind of token opens nothing.
  await refused(new ServerClient(accountToken, options).getServer(), Errors.InvalidAPIKeyError, 10, 401);
  await refused(new AccountClient(made.ApiTokens[0], options).getServers(), Errors.InvalidAPIKeyError, 10, 401);
  assert.match((await account.deleteServer(made.ID)).Message, /removed/);
  await refused(server.getServer(), Errors.InvalidAPIKeyError, 10, 401);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
