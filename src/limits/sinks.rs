//! Of sinks.

use std::time::Duration;

use super::{KIB, MIB};

/// `[[sink]]`; over it: a configuration error.
pub const SINKS_MAX: usize = 32;
/// Events of a sink that are in memory, and octets of their JSON: what it has not taken stays in the event log.
pub const SINK_BATCH: usize = 1_000;
pub const SINK_BATCH_BYTES: usize = 4 * MIB;
/// Time in which a target has to take a batch, and in which a connection to it has to stand.
pub const SINK_WRITE: Duration = Duration::from_secs(30);
pub const SINK_CONNECT: Duration = Duration::from_secs(10);
/// First and longest wait between two tries; it doubles.
pub const SINK_RETRY: Duration = Duration::from_secs(1);
pub const SINK_RETRY_MAX: Duration = Duration::from_secs(60);
/// Of Kafka: octets of events that one request brings to a partition (brokers take a megabyte by default), partitions of a topic,
/// octets of an answer.
pub const SINK_KAFKA_PIECE: usize = 512 * KIB;
pub const SINK_KAFKA_PARTITIONS: usize = 256;
pub const SINK_KAFKA_ANSWER: usize = 16 * MIB;
/// How often it is written down how far a sink is: so much it may get again after a kill.
pub const SINK_CURSOR: Duration = Duration::from_secs(1);
