// The official Node.js client of Postmark, unmodified, against a running node: what was sent.
// Arguments: host:port, server token, an address whose mail bounces.
const assert = require("node:assert");
const { Errors, ServerClient } = require("postmark");

const [requestHost, token, gone] = process.argv.slice(2);
const client = new ServerClient(token, { requestHost, useHttps: false });

async function refused(promise, code) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof Errors.ApiInputError, `${error.constructor.name}: ${error.message}`);
    assert.deepStrictEqual([error.code, error.statusCode], [code, 422], error.message);
    return true;
  });
}

async function eventually(look) {
  for (let tries = 0; tries < 200; tries++) {
    const found = await look();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`in vain: ${look}`);
}

(async () => {
  const attachment = { Name: "slip.txt", Content: Buffer.from("A slip").toString("base64"), ContentType: "text/plain", ContentID: null };
  const mail = {
    From: "Shop <orders@declared.example>", To: "Ada <ada@js.example>", Cc: "bo@js.example", Bcc: `cy@js.example, ${gone}`,
    Subject: "Grüße: your parcel", TextBody: "Text.", HtmlBody: "<p>Html.", Tag: "parcel", Metadata: { order: "881" }, Attachments: [attachment],
  };
  const { MessageID } = await client.sendEmail(mail);

  // At once, whatever readers do.
  const first = await client.getOutboundMessageDetails(MessageID);
  assert.deepStrictEqual([first.MessageID, first.Subject, first.TextBody, first.HtmlBody], [MessageID, mail.Subject, "Text.", "<p>Html."]);
  assert.ok((await client.getOutboundMessageDump(MessageID)).Body.includes("slip.txt"));

  const found = await eventually(async () => {
    const { TotalCount, Messages } = await client.getOutboundMessages({ count: 10, tag: "parcel", recipient: "ADA@js.example" });
    return TotalCount === 1 && Messages[0].Status === "Sent" && Messages[0];
  });
  const { ReceivedAt, ...rest } = found;
  assert.ok(Math.abs(new Date(ReceivedAt) - Date.now()) < 60_000, ReceivedAt);
  assert.deepStrictEqual(rest, {
    Tag: "parcel", MessageID, MessageStream: "outbound",
    To: [{ Email: "ada@js.example", Name: "Ada" }], Cc: [{ Email: "bo@js.example", Name: "" }],
    Bcc: [{ Email: "cy@js.example", Name: "" }, { Email: gone, Name: "" }],
    Recipients: ["ada@js.example", "bo@js.example", "cy@js.example", gone],
    From: "Shop <orders@declared.example>", Subject: mail.Subject, Attachments: ["slip.txt"], Status: "Sent",
    TrackOpens: false, TrackLinks: "None", Metadata: { order: "881" }, Sandboxed: false,
  });
  const today = new Date().toISOString().slice(0, 10);
  for (const filter of [{ fromEmail: "orders@declared.example" }, { subject: "parcel" }, { status: "sent" }, { status: "processed" }, { metadata_order: "881" }, { messageStream: "outbound", fromDate: today, toDate: today }]) {
    assert.strictEqual((await client.getOutboundMessages(filter)).TotalCount, 1, JSON.stringify(filter));
  }
  for (const filter of [{ fromEmail: "else@declared.example" }, { subject: "letter" }, { status: "queued" }, { metadata_order: "882" }, { messageStream: "broadcast" }, { toDate: "2020-01-01" }, { offset: 1 }]) {
    assert.deepStrictEqual((await client.getOutboundMessages(filter)).Messages, [], JSON.stringify(filter));
  }

  const events = await eventually(async () => {
    const { MessageEvents } = await client.getOutboundMessageDetails(MessageID);
    return MessageEvents.filter((event) => event.Type !== "SubscriptionChanged").length === 4 && MessageEvents;
  });
  for (const { Recipient, Type, Details } of events) {
    for (const value of Object.values(Details)) assert.strictEqual(typeof value, "string");
    if (Type === "Bounced") {
      assert.deepStrictEqual([Recipient, Details.Summary], [gone, "smtp;550 5.1.1 no such user"]);
      await eventually(() => client.getBounce(Number(Details.BounceID)).catch(() => null));
    } else if (Type === "Delivered") {
      assert.match(Details.DeliveryMessage, /^smtp;250 /);
      assert.strictEqual(Details.DestinationIP, "127.0.0.1");
    }
  }
  // The suppression that follows is part of the story.
  await eventually(async () => {
    const { MessageEvents } = await client.getOutboundMessageDetails(MessageID);
    return MessageEvents.some(({ Type, Recipient, Details }) => Type === "SubscriptionChanged" && Recipient === gone && Details.SuppressSending === "True");
  });

  assert.deepStrictEqual(await client.getMessageOpens(), { TotalCount: 0, Opens: [] });
  assert.deepStrictEqual(await client.getMessageOpensForSingleMessage(MessageID), { TotalCount: 0, Opens: [] });
  assert.deepStrictEqual(await client.getMessageClicks(), { TotalCount: 0, Clicks: [] });
  assert.deepStrictEqual(await client.getMessageClicksForSingleMessage(MessageID), { TotalCount: 0, Clicks: [] });

  const nobodys = "21895802-5d50-442b-b039-27cf5b462c54";
  await refused(client.getOutboundMessages({ count: -1 }), 700);
  await refused(client.getOutboundMessages({ count: 500, offset: 9501 }), 700);
  await refused(client.getOutboundMessages({ messageStream: "nowhere" }), 1226);
  await refused(client.getOutboundMessageDetails(nobodys), 701);
  await refused(client.getOutboundMessageDump(nobodys), 701);
  await refused(client.getMessageOpensForSingleMessage(nobodys), 701);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
