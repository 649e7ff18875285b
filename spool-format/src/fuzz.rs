//! Bodies of the fuzz targets: each takes arbitrary bytes and panics when a promise is broken.
//!
//! They are here and not under `fuzz/` so that `cargo test` runs them too: on seeded random bytes, and on the corpus in
//! `fuzz/corpus`. `scripts/fuzz` runs them guided by coverage.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a check may panic"
)]

use crate::archive::{self, Archive, Contents};
use crate::layout::{PAGE, PAGE_OFFSET, RECORD_HEADER, SEGMENT_SIZE_MIN, kind};
use crate::scan::{DamageReason, Item, Scan};
use crate::*;

/// Recovery of arbitrary bytes as a segment: it ends, covers everything once, and shows nothing that does not verify.
pub fn segment(data: &[u8]) {
    let header = SegmentHeader::decode(data).unwrap_or_else(|_| some_header(SEGMENT_SIZE_MIN));
    let end = u64::from(data.first().copied().unwrap_or_default()) * PAGE_OFFSET;
    check_scan(scan::sealed(data, &header, end), end.min(header.size));
    let tail = scan::tail(data, &header);
    assert!(tail.durable_end >= PAGE_OFFSET && tail.durable_end.is_multiple_of(PAGE_OFFSET));
    let is_cut = (data.len() as u64) < header.size;
    assert!(tail.last_batch < tail.durable_end || tail.durable_end == PAGE_OFFSET || is_cut);
    assert!(tail.uncommitted_end >= tail.durable_end);
    check_scan(tail.items(), tail.durable_end);
}

/// The same with a whole header before the bytes, so that the fuzzer need not find one.
pub fn records(data: &[u8]) {
    let size = (data.len() as u64 + 2 * PAGE_OFFSET).next_multiple_of(PAGE_OFFSET);
    let mut bytes = some_header(size.max(SEGMENT_SIZE_MIN)).encode().to_vec();
    bytes.extend_from_slice(data);
    bytes[0] = bytes[0].wrapping_add(u8::from(data.len().is_multiple_of(7)));
    if !data.len().is_multiple_of(5) {
        // Else the file is cut.
        bytes.resize(usize::try_from(size.max(SEGMENT_SIZE_MIN)).unwrap(), 0);
    }
    segment(&bytes);
}

/// Every decoder on arbitrary bytes; what decodes is encoded to the same record.
pub fn payload(data: &[u8]) {
    if let Ok(record) = MessageRecord::decode(data) {
        let mut again = Vec::new();
        record.encode_head(&mut again).unwrap();
        assert_eq!(again.len(), record.head_len());
        let range = MessageRecord::inline_range(data).unwrap();
        assert_eq!(
            range.is_some(),
            matches!(record.content, Content::Inline(_))
        );
        if let Content::Inline(octets) = record.content {
            assert_eq!(&data[range.unwrap()], octets);
            again.extend_from_slice(octets);
        }
        assert_eq!(MessageRecord::decode(&again), Ok(record));
        assert_eq!(record.recipients.iter().count(), record.recipients.len());
    }
    if let Ok(record) = EventRecord::decode(data) {
        let mut again = Vec::new();
        record.encode(&mut again).unwrap();
        assert_eq!(EventRecord::decode(&again), Ok(record));
    }
    let _ = MessageRecord::inline_range(data);
    let _ = ContentRecord::decode(data);
    if let Ok(record) = ErasedRecord::decode(data) {
        let mut again = vec![0; data.len()];
        record.write(&mut again).unwrap();
        assert_eq!(ErasedRecord::decode(&again), Ok(record));
        let _ = (record.event(), record.message(), record.message_id());
    }
    let _ = VoidRecord::decode(data);
    if let Ok(entries) = redo::decode(data) {
        assert_eq!(redo::decode(&redo::encode(&entries, 0)), Ok(entries));
    }
    let _ = SegmentHeader::decode(data);
    let _ = SegmentHeader::is_whole(data);
    let seed = some_header(SEGMENT_SIZE_MIN).seed();
    let _ = CommitRecord::decode(data, 0, seed);
    let _ = frame::read_record(data, 4096, seed);
}

/// A log written and broken as the bytes say: what is found was written, what was not hit is found.
pub fn damage(data: &[u8]) {
    let (&[plan @ .., breaks], rest) = data.split_first_chunk::<17>().unwrap_or((&[0; 17], &[]));
    let mut image = SegmentImage::new(some_header(16 * PAGE_OFFSET));
    for step in plan {
        let len = usize::from(step) * 13;
        match step % 8 {
            0 => image.commit(),
            1 => image.pad(usize::from(step >> 3) * 8),
            number => image.append(number + 20, 0, &vec![step; len]),
        };
    }
    match breaks % 2 {
        0 => image.commit(),
        _ => image.seal(),
    };
    let header = image.header().clone();
    let tail = scan::tail(image.bytes(), &header);
    let end = tail.durable_end;
    let written: Vec<_> = scan::sealed(image.bytes(), &header, end)
        .map(|item| match item {
            Item::Record(frame) => frame,
            Item::Damage(damage) => panic!("{damage:?}"),
        })
        .collect();
    let mut broken = image.bytes().to_vec();
    for hit in rest.chunks_exact(3).take(usize::from(breaks)) {
        let at = PAGE + usize::from(u16::from_le_bytes([hit[0], hit[1]]));
        if let Some(byte) = broken.get_mut(at) {
            *byte ^= hit[2];
        }
    }
    let items: Vec<_> = check_scan(scan::sealed(&broken, &header, end), end);
    for item in &items {
        if let Item::Record(frame) = item {
            assert!(written.contains(frame), "invented {frame:?}");
        }
    }
    for frame in written
        .iter()
        .filter(|frame| frame.record_len >= RECORD_HEADER)
    {
        let extent = usize::try_from(frame.offset).unwrap()..usize::try_from(frame.end()).unwrap();
        let hit = broken[extent.clone()] != image.bytes()[extent];
        let found = items.contains(&Item::Record(*frame));
        // A whole commit record may be reported for a batch that is not.
        assert!(
            found != hit || frame.kind == kind::COMMIT,
            "{frame:?} hit: {hit}"
        );
    }
}

/// Arbitrary bytes as a checkpoint, its blocks, and entries without their checksums: they end, and what is read can be
/// written again.
pub fn checkpoint(data: &[u8]) {
    use crate::checkpoint::{Block, Reading};

    if let Ok(header) = CheckpointHeader::decode(data) {
        assert_eq!(
            CheckpointHeader::decode(&header.encode()).as_ref(),
            Ok(&header)
        );
        let mut reading = Reading::start(&header);
        let _ = reading.gaps(data);
        while let Ok(Block::Entries(_)) = reading.block(data) {}
    }
    let _ = Reading::block_len(data);
    let (mut rest, mut names) = (data, Names::default());
    let (mut reader, mut writer) = (EntryReader::default(), EntryWriter::default());
    let (mut message, mut read) = (LiveMessage::default(), Vec::new());
    while let Ok(true) = reader.next(&mut rest, &mut names, &mut message) {
        assert!(message.recipients.len() <= data.len() && message.parts.len() <= data.len());
        writer.push(&message, &names).unwrap();
        read.push(message.clone());
    }
    let again = writer.take();
    let (mut rest, mut reader) = (&again[..], EntryReader::default());
    for expected in read {
        assert_eq!(reader.next(&mut rest, &mut names, &mut message), Ok(true));
        assert_eq!(message, expected);
    }
}

/// Arbitrary bytes as an archive, and an archive broken as the bytes say: it shows what was written, or less.
pub fn archive(data: &[u8]) {
    if let Ok(archive) = Archive::parse(data) {
        let (raw, _) = archive.segment();
        assert_eq!(raw.len() as u64, archive.footer.raw_len);
        check_scan(
            scan::sealed(&raw, &archive.header, archive.footer.raw_len),
            archive.footer.raw_len,
        );
    }
    let (breaks, content) = data.split_at(data.len().min(12));
    let mut image = SegmentImage::new(some_header(8 * PAGE_OFFSET));
    for piece in content.chunks(997).take(20) {
        image.append(kind::MESSAGE, 0, piece);
    }
    image.commit();
    let header = image.header().clone();
    let end = scan::tail(image.bytes(), &header).durable_end;
    let raw = &image.bytes()[..usize::try_from(end).unwrap()];
    let mut file = Vec::new();
    archive::encode(&header, raw, &Contents::default(), 0, 1, |bytes| {
        file.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    for hit in breaks.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([hit[0], hit[1]])) % file.len();
        file[at] ^= hit[2];
    }
    if let Ok(archive) = Archive::parse(&file) {
        let (found, broken) = archive.segment();
        assert_eq!(archive.header, header);
        assert!(!broken.is_empty() || found == raw, "invented bytes");
    }
}

fn check_scan<'a>(scan: Scan<'a>, end: u64) -> Vec<Item<'a>> {
    let items: Vec<_> = scan.collect();
    let mut offset = PAGE_OFFSET;
    for item in &items {
        let (from, to) = match item {
            Item::Record(frame) => (frame.offset, frame.end()),
            Item::Damage(damage) if damage.reason == DamageReason::Header => continue,
            Item::Damage(damage) => (damage.offset, damage.offset + damage.len),
        };
        assert!(from == offset && to > from, "{item:?} at {offset}");
        offset = to;
    }
    assert!(offset == end || end < PAGE_OFFSET, "{offset} of {end}");
    items
}

fn some_header(size: u64) -> SegmentHeader {
    SegmentHeader {
        kind: LogKind::Mail,
        number: 1,
        first_position: 0,
        size,
        epoch: 0,
        created_unix_ms: 0,
        previous_end: 0,
        salt: *b"sixteen bytes of",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::message_flag;

    /// xorshift64*: enough to choose bytes, the same on every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
        }

        fn below(&mut self, bound: usize) -> usize {
            usize::try_from(self.next() % bound as u64).unwrap()
        }

        fn bytes(&mut self, len: usize) -> Vec<u8> {
            (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
        }

        /// Small values are what lengths and kinds are made of.
        fn mostly_small(&mut self, len: usize) -> Vec<u8> {
            let mut bytes = self.bytes(len);
            for byte in &mut bytes {
                *byte = if self.below(3) == 0 {
                    *byte
                } else {
                    *byte % 17
                };
            }
            bytes
        }

        fn mutate(&mut self, bytes: &mut Vec<u8>) {
            for _ in 0..=self.below(4) {
                let at = self.below(bytes.len().max(1));
                match (self.below(4), bytes.get_mut(at)) {
                    (0, _) => bytes.truncate(at),
                    (1, Some(byte)) => *byte = 0,
                    (2, Some(byte)) => *byte = 0xFF,
                    (_, Some(byte)) => *byte ^= 1 << (self.next() % 8),
                    (_, None) => bytes.push(0),
                }
            }
        }
    }

    fn a_message() -> Vec<u8> {
        let fields = [Field::text(field_tag::HELO, "app.example.com")];
        let recipients = [
            ("ann@example.net", "example.net"),
            ("bob@example.org", "example.org"),
        ]
        .map(|(forward_path, domain)| Recipient {
            forward_path,
            domain,
            fields: Fields::new(&fields),
        });
        let metadata = [("color", "blue")];
        let content = b"Subject: hello\r\n\r\nHow are you?\r\n";
        let record = MessageRecord {
            id: [7; 16],
            accepted_unix_ms: 1,
            server_id: 2,
            server_name: "shop",
            stream_id: "outbound",
            stream_kind: StreamKind::Broadcast,
            pool: "bulk",
            reverse_path: "",
            recipients: List::new(&recipients),
            tag: None,
            metadata: List::new(&metadata),
            flags: message_flag::SMTPUTF8,
            header_len: 18,
            fields: Fields::new(&fields),
            content: Content::Inline(content),
        };
        let mut out = Vec::new();
        record.encode_head(&mut out).unwrap();
        out.extend_from_slice(content);
        out
    }

    fn a_checkpoint() -> Vec<u8> {
        let header = CheckpointHeader {
            form: checkpoint::Form::Base,
            number: 1,
            base: 1,
            mail_from: 0,
            mail_to: 1 << 20,
            event_to: 4096,
            created_unix_ms: 5,
            salt: [6; 16],
        };
        let gaps = CheckpointGaps {
            mail: vec![(4096, 8192)],
            events: Vec::new(),
        };
        let mut names = Names::default();
        let mut message = LiveMessage::default();
        message.read(4096, 0, &a_message(), &mut names).unwrap();
        message.parts = vec![8192, 12_288];
        let start = checkpoint::Writing::start(&header, &gaps);
        let (mut writing, mut bytes) = start.unwrap();
        writing.push(&message, &names).unwrap();
        writing.finish(&mut bytes).unwrap();
        bytes
    }

    /// Target, and its body.
    type Target = (&'static str, fn(&[u8]));

    const TARGETS: &[Target] = &[
        ("archive", archive),
        ("checkpoint", checkpoint),
        ("damage", damage),
        ("payload", payload),
        ("records", records),
        ("segment", segment),
    ];

    /// One input for each thing that can be decoded, made by what encodes it.
    fn seeds(target: &str) -> Vec<(&'static str, Vec<u8>)> {
        let file = |name: &str| {
            let path = format!("{}/testdata/v1/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(path).unwrap()
        };
        let message = a_message();
        let mut event = Vec::new();
        let fields = [Field::text(2, "x")];
        let record = EventRecord {
            kind: 2,
            at_unix_ms: 3,
            message_id: [7; 16],
            recipient_number: 1,
            fields: Fields::new(&fields),
        };
        record.encode(&mut event).unwrap();
        let mut image = SegmentImage::new(some_header(SEGMENT_SIZE_MIN));
        image.append(kind::MESSAGE, 0, &message).unwrap();
        image.append(kind::EVENT, 0, &event).unwrap();
        image.commit().unwrap();
        image.append(kind::EVENT, 0, &event).unwrap();
        image.pad(8).unwrap();
        image.seal().unwrap();
        let batches = image.bytes()[PAGE..].to_vec();
        let seed = image.header().seed();
        let commit = CommitRecord {
            from: 4096,
            to: 4096,
            count: 0,
            running_hash: 1,
        };
        let void = VoidRecord { from: 8, to: 16 };
        let part = [&ContentRecord::head([7; 16], 1)[..], b"octets"].concat();
        match target {
            "archive" => vec![("mail", file("mail.arc"))],
            "checkpoint" => vec![("base", a_checkpoint())],
            "damage" => vec![
                ("commits", (0..32).collect()),
                ("hits", (0..17).chain([9, 9, 1, 200, 1, 255]).collect()),
            ],
            "payload" => vec![
                ("message", message),
                ("event", event),
                ("content", part),
                ("void", void.encode().to_vec()),
                ("commit", commit.encode(seed).to_vec()),
                ("header", image.header().encode().to_vec()),
                ("record", batches[..256].to_vec()),
            ],
            "records" => vec![("batches", batches[..8192].to_vec())],
            "segment" => vec![
                ("events", file("events.seg")),
                ("erased", file("erased.seg")),
                ("damaged", file("damaged.seg")),
            ],
            _ => Vec::new(),
        }
    }

    /// A missing seed is made here; `scripts/fuzz 0` adds inputs that reach further.
    #[test]
    fn every_input_of_the_corpus_keeps_the_promises() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let mut targets: Vec<String> = std::fs::read_dir(root.join("fuzz_targets"))
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        targets.sort();
        let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(targets, known, "each target has its body and its corpus");
        for (target, body) in TARGETS {
            let corpus = root.join("corpus").join(target);
            std::fs::create_dir_all(&corpus).unwrap();
            for (name, bytes) in seeds(target) {
                let path = corpus.join(name);
                if !path.exists() {
                    std::fs::write(path, bytes).unwrap();
                }
            }
            let files = std::fs::read_dir(&corpus).unwrap();
            for path in files.map(|entry| entry.unwrap().path()) {
                let bytes = std::fs::read(&path).unwrap();
                let ran = std::panic::catch_unwind(|| body(&bytes));
                assert!(ran.is_ok(), "{}", path.display());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_recovered_without_a_panic() {
        let mut random = Random(1);
        for _ in 0..2_000 {
            let len = random.below(20_000);
            let bytes = random.mostly_small(len);
            segment(&bytes);
            records(&bytes);
        }
    }

    #[test]
    fn arbitrary_checkpoints_decode_to_themselves_or_to_an_error() {
        let mut random = Random(5);
        let mut names = Names::default();
        let mut live = LiveMessage::default();
        let mut writer = EntryWriter::default();
        for position in [4_096, 5_000] {
            live.read(position, 0, &a_message(), &mut names).unwrap();
            writer.push(&live, &names).unwrap();
        }
        let valid = writer.take();
        checkpoint(&valid);
        for _ in 0..20_000 {
            let mut bytes = valid.clone();
            random.mutate(&mut bytes);
            checkpoint(&bytes);
            let len = random.below(200);
            checkpoint(&random.mostly_small(len));
        }
    }

    #[test]
    fn arbitrary_payloads_decode_to_themselves_or_to_an_error() {
        let mut random = Random(2);
        let valid = a_message();
        payload(&valid);
        for _ in 0..100_000 {
            let mut bytes = valid.clone();
            random.mutate(&mut bytes);
            payload(&bytes);
            let len = random.below(200);
            payload(&random.mostly_small(len));
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_archive_and_a_broken_one_shows_no_other_bytes() {
        let mut random = Random(4);
        for _ in 0..2_000 {
            let len = random.below(6_000);
            archive(&random.mostly_small(len));
        }
    }

    #[test]
    fn whatever_is_broken_nothing_is_invented_and_nothing_whole_is_lost() {
        let mut random = Random(3);
        for _ in 0..3_000 {
            let len = 17 + random.below(60);
            damage(&random.bytes(len));
        }
    }
}
