//! Replies that no rule knows, gathered by what they say: what differs from one to the next (addresses, hosts, numbers,
//! ids) is masked, so that a postmaster sees ten texts instead of a million replies.

use std::collections::HashMap;

use crate::clock::UnixMs;
use crate::limits;

/// Replies of one wording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Code and text, masked.
    pub pattern: String,
    pub count: u64,
    pub first: UnixMs,
    pub last: UnixMs,
    /// The first few, as they were.
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub event: u64,
    pub host: String,
    pub stage: String,
    pub reply: String,
}

#[derive(Debug, Default)]
pub struct Clusters {
    found: HashMap<String, Cluster>,
    /// Replies of further wordings, when there were too many of these.
    pub beyond: u64,
}

impl Clusters {
    pub fn add(&mut self, at: UnixMs, sample: Sample) {
        let pattern = masked(&sample.reply);
        if !self.found.contains_key(&pattern) && self.found.len() >= limits::CLUSTERS_MAX {
            self.beyond += 1;
            return;
        }
        let cluster = self
            .found
            .entry(pattern.clone())
            .or_insert_with(|| Cluster {
                pattern,
                count: 0,
                first: at,
                last: at,
                samples: Vec::new(),
            });
        cluster.count += 1;
        cluster.first = cluster.first.min(at);
        cluster.last = cluster.last.max(at);
        if cluster.samples.len() < SAMPLES {
            cluster.samples.push(sample);
        }
    }

    /// The most frequent first.
    pub fn into_sorted(self) -> Vec<Cluster> {
        let mut all: Vec<Cluster> = self.found.into_values().collect();
        all.sort_by(|a, b| (b.count, &a.pattern).cmp(&(a.count, &b.pattern)));
        all
    }
}

/// `550 5.1.1 <ada@example.com> unknown (id 4f3a-99)` becomes `550 5.1.1 <ADDRESS> unknown (id ID)`.
pub(super) fn masked(reply: &str) -> String {
    let mut out = String::new();
    for (place, word) in reply.split_whitespace().enumerate() {
        if out.len() > limits::CLUSTER_PATTERN {
            out.push('…');
            break;
        }
        if place > 0 {
            out.push(' ');
        }
        // Code and status are what is the same.
        match place < 2 && word.bytes().all(|b| b.is_ascii_digit() || b == b'.') && word.len() <= 9
        {
            true => out.push_str(word),
            false => mask_word(word, &mut out),
        }
    }
    out
}

fn mask_word(word: &str, out: &mut String) {
    if word.contains("://") {
        return out.push_str("URL");
    }
    let is_shell = |c: char| "<>()[]{}\"'`,;:!?=".contains(c);
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest.find(is_shell).unwrap_or(rest.len());
        let (core, after) = rest.split_at(end);
        out.push_str(mask_core(core));
        let mut chars = after.chars();
        if let Some(shell) = chars.next() {
            // Of an IPv6 address or a time nothing is left but one mask.
            let is_joint = shell == ':' && out.ends_with("ID");
            if !is_joint {
                out.push(shell);
            }
        }
        rest = chars.as_str();
    }
}

fn mask_core(core: &str) -> &str {
    let digits = core.bytes().filter(u8::is_ascii_digit).count();
    let bare = core.trim_end_matches('.');
    let dots = bare.matches('.').count();
    if bare.contains('@') {
        "ADDRESS"
    } else if dots == 3 && bare.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        "IP"
    } else if digits > 0 && core.bytes().all(|b| b.is_ascii_digit()) {
        "N"
    } else if dots > 0
        && bare.split('.').all(|label| !label.is_empty())
        && !bare.ends_with(|c: char| c.is_ascii_digit())
    {
        "HOST"
    } else if digits > 1 && core.len() > 5 || core.len() > 24 {
        "ID"
    } else {
        core
    }
}

/// Of each cluster.
const SAMPLES: usize = 3;
