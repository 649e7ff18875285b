"""A broker of Kafka for tests/it/kafka.rs: the mock cluster of librdkafka, which speaks the protocol over TCP.

Prints `host:port`. Then, for each line on its standard input, a line of JSON: `create TOPIC` makes a topic, and answers with its number of
partitions; `read TOPIC N` waits for records of N different ids, and answers with all that there are: partition, key, headers, value.
"""

import json
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition


def records(brokers, topic, wanted, patience=30):
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "reader", "enable.auto.commit": False, "check.crcs": True})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    found, ids, last = [], set(), time.monotonic()
    while time.monotonic() < last + (0.3 if len(ids) >= wanted else patience):
        record = consumer.poll(0.1)
        if record is None:
            continue
        assert record.error() is None, record.error()
        headers = {name: value.decode() for name, value in record.headers()}
        key = record.key() and record.key().decode()
        found.append({"partition": record.partition(), "key": key, "headers": headers, "value": json.loads(record.value()), "at": record.timestamp()[1]})
        ids.add(headers["id"])
        last = time.monotonic()
    consumer.close()
    return found


# Another client of the same process would have a cluster of its own.
cluster = Producer({"test.mock.num.brokers": 1, "log_level": 3})
brokers = ",".join(f"{broker.host}:{broker.port}" for broker in cluster.list_topics(timeout=10).brokers.values())
print(brokers, flush=True)
for line in sys.stdin:
    match line.split():
        case ["create", topic]:
            # Who asks for a topic makes it.
            partitions = {}
            while not partitions:
                partitions = cluster.list_topics(topic, timeout=10).topics[topic].partitions
            print(json.dumps(len(partitions)), flush=True)
        case ["read", topic, wanted]:
            print(json.dumps(records(brokers, topic, int(wanted))), flush=True)
        case other:
            sys.exit(f"what is {other}?")
