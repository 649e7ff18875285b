// The official Node.js client of Postmark, unmodified, against a running node: statistics.
// Arguments: host:port, server token, today's date in the node's zone. Two messages were sent today, one with the tag
// `welcome`, which bounced hard.
const assert = require("node:assert");
const { Errors, ServerClient } = require("postmark");

const [requestHost, token, today] = process.argv.slice(2);
const client = new ServerClient(token, { requestHost, useHttps: false });

(async () => {
  const overview = await client.getOutboundOverview();
  assert.deepStrictEqual(
    [overview.Sent, overview.Bounced, overview.SMTPApiErrors, overview.BounceRate, overview.SpamComplaints, overview.Opens, overview.TotalClicks],
    [2, 1, 0, 50, 0, 0, 0],
  );
  assert.deepStrictEqual(await client.getSentCounts(), { Days: [{ Date: today, Sent: 2 }], Sent: 2 });
  assert.deepStrictEqual(await client.getSentCounts({ tag: "welcome" }), { Days: [{ Date: today, Sent: 1 }], Sent: 1 });
  const bounces = await client.getBounceCounts({ fromDate: today, toDate: today, messageStream: "outbound" });
  assert.deepStrictEqual([bounces.Days.length, bounces.Days[0].HardBounce, bounces.HardBounce, bounces.SoftBounce], [1, 1, 1, 0]);
  assert.deepStrictEqual(await client.getSentCounts({ toDate: "2020-01-01" }), { Days: [] });
  for (const none of ["getSpamComplaintsCounts", "getTrackedEmailCounts", "getEmailOpenCounts", "getEmailOpenPlatformUsage", "getEmailOpenClientUsage", "getEmailOpenReadTimes", "getClickCounts", "getClickBrowserUsage", "getClickPlatformUsage", "getClickLocation"]) {
    assert.deepStrictEqual(await client[none](), { Days: [] }, none);
  }
  for (const [filter, code] of [[{ fromDate: "x" }, 900], [{ messageStream: "nowhere" }, 1226]]) {
    await assert.rejects(client.getOutboundOverview(filter), (error) => {
      assert.ok(error instanceof Errors.ApiInputError, error.constructor.name);
      assert.deepStrictEqual([error.code, error.statusCode], [code, 422], error.message);
      return true;
    });
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
