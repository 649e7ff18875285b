//! A topic of Kafka. An event is there when all in-sync replicas of its partition have it (`acks=all`). Its key is the message's id, so that
//! the events of a message are in one partition, in order; headers carry the event's id and its node, by which a consumer drops
//! what comes twice.
//!
//! How: a batch is divided by partition, and the partitions are written side by side, each in pieces below a broker's usual limit of a
//! megabyte. What a partition has taken is remembered while the batch is tried again, so a partition that is away does not make
//! the others repeat theirs. Only the connection to a leader is the client's affair: whatever it gives up, the sink tries again.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::DateTime;
use rskafka::BackoffConfig;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder, Credentials, SaslConfig};
use rskafka::record::Record;
use tokio::task::JoinSet;

use super::{Batch, Line};
use crate::config::{self, KafkaMechanism, SinkKafka};
use crate::limits;
use crate::route::trust;

pub(super) struct Kafka {
    config: SinkKafka,
    /// Event ids are of one log: another node has the same.
    node: String,
    open: Option<Vec<Arc<PartitionClient>>>,
    /// Of each partition, the last event that it has taken.
    taken: Vec<Arc<AtomicU64>>,
}

impl Kafka {
    pub(super) fn new(config: &SinkKafka, hostname: &str) -> Self {
        Self {
            config: config.clone(),
            node: hostname.to_owned(),
            open: None,
            taken: Vec::new(),
        }
    }

    pub(super) async fn write(&mut self, batch: &Batch) -> io::Result<()> {
        // One that failed is connected anew: partitions may have been added.
        let partitions = match self.open.take() {
            Some(partitions) => partitions,
            None => self.connect().await?,
        };
        if self.taken.len() != partitions.len() {
            // Keys are in other partitions than before.
            self.taken = partitions.iter().map(|_| Arc::default()).collect();
        }
        let mut writing = JoinSet::new();
        for (number, pieces) in self.pieces(batch) {
            let partition = Arc::clone(&partitions[number]);
            let compression = match self.config.compression {
                config::Compression::None => Compression::NoCompression,
                config::Compression::Zstd => Compression::Zstd,
                config::Compression::Gzip => Compression::Gzip,
            };
            let taken = Arc::clone(&self.taken[number]);
            writing.spawn(async move {
                for (last, records) in pieces {
                    if let Err(error) = partition.produce(records, compression).await {
                        return Err((number, error));
                    }
                    // At once: this may be given up, with the rest, before it is done. Relaxed: only `pieces` looks, later.
                    taken.store(last, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        let mut failed = None;
        while let Some(written) = writing.join_next().await {
            if let Err((number, error)) = written.map_err(io::Error::other)? {
                let topic = &self.config.topic;
                let text = format!(
                    "Kafka did not take an event for partition {number} of `{topic}`: {error}"
                );
                failed.get_or_insert(io::Error::other(text));
            }
        }
        match failed {
            Some(error) => Err(error),
            None => {
                self.open = Some(partitions);
                Ok(())
            }
        }
    }

    /// What each partition has still to get, in order: pieces and the last event of each.
    fn pieces(&self, batch: &Batch) -> BTreeMap<usize, Vec<(u64, Vec<Record>)>> {
        let mut all: BTreeMap<usize, Vec<(u64, Vec<Record>)>> = BTreeMap::new();
        let mut sizes = vec![0; self.taken.len()];
        for line in &batch.lines {
            let number = partition_of(line.message.as_deref(), self.taken.len());
            if line.id <= self.taken[number].load(Ordering::Relaxed) {
                continue;
            }
            let pieces = all.entry(number).or_default();
            sizes[number] += line.json.len();
            if pieces.is_empty() || sizes[number] > limits::SINK_KAFKA_PIECE {
                pieces.push((0, Vec::new()));
                sizes[number] = line.json.len();
            }
            if let Some((last, records)) = pieces.last_mut() {
                *last = line.id;
                records.push(self.record(line));
            }
        }
        all
    }

    fn record(&self, line: &Line) -> Record {
        let headers = [
            ("id", line.id.to_string()),
            ("node", self.node.clone()),
            ("kind", line.kind.to_owned()),
        ];
        Record {
            key: line.message.as_ref().map(|id| id.clone().into_bytes()),
            value: Some(line.json.clone()),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into_bytes()))
                .collect(),
            timestamp: DateTime::from_timestamp_millis(line.at as i64).unwrap_or_default(),
        }
    }

    async fn connect(&self) -> io::Result<Vec<Arc<PartitionClient>>> {
        let brokers = self.config.brokers.join(", ");
        let failed = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("Kafka at {brokers}: {error}"))
        };
        let client = self.client().await?;
        let topics = client.list_topics().await.map_err(|e| failed(&e))?;
        let topic = &self.config.topic;
        let Some(found) = topics.into_iter().find(|found| found.name == *topic) else {
            let text =
                format!("there is no topic `{topic}`, or this user may not see it; create it");
            return Err(failed(&text));
        };
        if found.partitions.len() > limits::SINK_KAFKA_PARTITIONS {
            let text = format!(
                "topic `{topic}` has {} partitions; a sink writes at most {}",
                found.partitions.len(),
                limits::SINK_KAFKA_PARTITIONS
            );
            return Err(failed(&text));
        }
        if found.partitions.is_empty() {
            return Err(failed(&format!("topic `{topic}` has no partition")));
        }
        // Each has a connection of its own: side by side, or many take longer than a write may.
        let client = Arc::new(client);
        let mut connecting = JoinSet::new();
        for number in found.partitions {
            let (client, topic) = (Arc::clone(&client), topic.clone());
            let unknown = UnknownTopicHandling::Error;
            connecting.spawn(async move { client.partition_client(topic, number, unknown).await });
        }
        let mut partitions = Vec::new();
        while let Some(connected) = connecting.join_next().await {
            let partition = connected.map_err(io::Error::other)?;
            partitions.push(Arc::new(partition.map_err(|e| failed(&e))?));
        }
        partitions.sort_by_key(|partition| partition.partition());
        Ok(partitions)
    }

    async fn client(&self) -> io::Result<Client> {
        let config = &self.config;
        let mut builder = ClientBuilder::new(config.brokers.clone())
            .client_id("posthaste")
            .max_message_size(limits::SINK_KAFKA_ANSWER)
            .backoff_config(BackoffConfig {
                init_backoff: limits::SINK_RETRY / 10,
                max_backoff: limits::SINK_RETRY,
                base: 2.0,
                // So that the cause is told, and not that time was up.
                deadline: Some(limits::SINK_CONNECT),
            });
        if let Some((user, password)) = &config.user {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            builder = builder.sasl_config(match config.mechanism {
                KafkaMechanism::Plain => SaslConfig::Plain(credentials),
                KafkaMechanism::ScramSha256 => SaslConfig::ScramSha256(credentials),
                KafkaMechanism::ScramSha512 => SaslConfig::ScramSha512(credentials),
            });
        }
        if config.tls {
            let tls = trust::client(config.ca_file.as_deref()).await;
            builder = builder.tls_config(Arc::new(tls.map_err(io::Error::other)?));
        }
        let brokers = config.brokers.join(", ");
        let failed = |error| io::Error::other(format!("Kafka at {brokers}: {error}"));
        builder.build().await.map_err(failed)
    }
}

/// Events that are of no message are in the first.
fn partition_of(message: Option<&str>, partitions: usize) -> usize {
    message.map_or(0, |id| crc32c::crc32c(id.as_bytes()) as usize % partitions)
}
