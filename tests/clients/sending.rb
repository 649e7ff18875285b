# Sends with the official Ruby gem, unchanged: plain, batch, attached, non-ASCII, and the errors that it expects.
require "postmark"

host, port, token = ARGV
options = { host: host, port: Integer(port), secure: false }
client = Postmark::ApiClient.new(token, **options)

def check(condition, what)
  abort("failed: #{what}") unless condition
end

plain = client.deliver(from: "Ada <ada@declared.example>", to: ["bo@example.com", "cy@example.com"], subject: "Plain", text_body: "Hi.")
check(plain[:error_code] == 0 && plain[:message] == "OK" && plain[:message_id].length == 36, plain)

whole = client.deliver(
  from: "Zoë Ørsted <ada@declared.example>", to: "Jürgen <bo@example.com>", cc: "cy@example.com", bcc: "dan@example.com",
  reply_to: "help@declared.example", subject: "Größe 💌", text_body: "Grüße, żółć", html_body: "<p>Grüße</p>", tag: "ruby",
  metadata: { order: "7" }, track_opens: true, message_stream: "outbound",
  headers: [{ name: "X-Ruby", value: "yes" }],
  attachments: [{ "Name" => "zażółć.dat", "Content" => [(0..255).map(&:chr).join * 9].pack("m"), "ContentType" => "application/octet-stream" }]
)
check(whole[:error_code] == 0, whole)

batch = client.deliver_in_batches((0...501).map { |n| { from: "ada@declared.example", to: "r#{n}@example.com", subject: "Batch #{n}", text_body: "x" } })
check(batch.length == 501 && batch.all? { |one| one[:error_code] == 0 }, "a batch of 501, which the gem cuts")

mixed = client.deliver_in_batches([{ from: "ada@declared.example", to: "World", subject: "x", text_body: "x" },
                                   { from: "ada@declared.example", to: "bo@example.com", subject: "x", text_body: "x" }])
check(mixed.map { |one| one[:error_code] } == [300, 0], mixed)

client.create_suppressions("outbound", ["gone@example.com"])
begin
  client.deliver(from: "ada@declared.example", to: "gone@example.com", subject: "x", text_body: "x")
  abort("sent to a suppressed address")
rescue Postmark::InactiveRecipientError => error
  check(error.error_code == 406, error.error_code)
end
begin
  client.deliver(from: "ada@elsewhere.example", to: "bo@example.com", subject: "x", text_body: "x")
  abort("sent from an address of nobody's")
rescue Postmark::ApiInputError => error
  check(error.error_code == 400, error.error_code)
end
begin
  Postmark::ApiClient.new("nobody", **options).deliver(from: "ada@declared.example", to: "bo@example.com", subject: "x", text_body: "x")
  abort("sent with a wrong token")
rescue Postmark::InvalidApiKeyError => error
  check(error.message.include?("valid Server token"), error.message)
end
test = Postmark::ApiClient.new("POSTMARK_API_TEST", **options)
accepted = test.deliver(from: "a@b.example", to: "bo@example.com", subject: "x", text_body: "x")
check(accepted[:message] == "Test job accepted", accepted)
dump = client.dump_message(whole[:message_id])
check(dump[:body].include?("X-Ruby: yes"), dump)
