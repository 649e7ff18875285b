//! FORMAT.md and `layout.rs` say the same: every table of the page is compared with the constants, both ways.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeMap;

use spool_format::layout;

const FORMAT: &str = include_str!("../FORMAT.md");

/// Rows of the table behind `<!-- table: name -->`: its cells.
fn table(name: &str) -> Vec<Vec<String>> {
    let marker = format!("<!-- table: {name} -->\n");
    let (_, behind) = FORMAT
        .split_once(&marker)
        .unwrap_or_else(|| panic!("no table {name}"));
    behind
        .lines()
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
            inner
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

/// A table of offsets: each row begins where the one before ends.
fn check_layout(name: &str, expected: &[(&str, usize)]) {
    let rows = table(name);
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row[2].as_str(), row[0].parse::<usize>().expect(&row[0])))
        .collect();
    assert_eq!(found, expected, "table {name}");
    for pair in rows.windows(2) {
        let end = pair[0][0].parse::<usize>().unwrap() + pair[0][1].parse::<usize>().unwrap();
        assert_eq!(
            pair[1][0],
            end.to_string(),
            "table {name} after {}",
            pair[0][2]
        );
    }
}

fn check_numbers<N: Into<u64> + Copy>(name: &str, expected: &[(&str, N)]) {
    let found: BTreeMap<String, u64> = table(name)
        .into_iter()
        .map(|row| (row[1].clone(), row[0].parse().unwrap()))
        .collect();
    let expected: BTreeMap<String, u64> = expected
        .iter()
        .map(|&(name, number)| (name.to_owned(), number.into()))
        .collect();
    assert_eq!(found, expected, "table {name}");
}

macro_rules! same {
    ($check:ident $module:ident $table:literal: $($name:ident)*) => {
        $check($table, &[$((stringify!($name), layout::$module::$name)),*]);
        // The module has no constant that the page does not name.
        let source = include_str!("../src/layout.rs");
        let start = source.find(concat!("pub mod ", stringify!($module), " {")).unwrap();
        let body = &source[start..start + source[start..].find("\n}").unwrap()];
        let named = [$(stringify!($name)),*];
        for line in body.lines().filter_map(|line| line.trim().strip_prefix("pub const ")) {
            let constant = line.split(':').next().unwrap();
            let derived = matches!(
                (stringify!($module), constant),
                ("header", "COPY")
                    | ("commit" | "void" | "archive_footer" | "checkpoint", "LEN")
                    | ("content_part" | "archive_frame" | "archive_owner" | "redo_entry" | "digest_entry", "SIZE")
            );
            assert!(named.contains(&constant) || derived, "{constant} is not in FORMAT.md");
        }
    };
}

#[test]
fn offsets_of_the_page_are_those_of_the_code() {
    same!(check_layout header "header": MAGIC VERSION LOG_KIND RESERVED_1 CRC NUMBER FIRST_POSITION SIZE EPOCH
        CREATED_UNIX_MS PREVIOUS_END SALT FEATURES RESERVED_2);
    same!(check_layout record "record": LEN CRC KIND FLAGS RESERVED PAYLOAD);
    same!(check_layout commit "commit": FROM TO RUNNING_HASH MARK COUNT RESERVED);
    same!(check_layout message "message": ID ACCEPTED_UNIX_MS CONTENT_LEN SERVER_ID FLAGS HEADER_LEN RECIPIENTS STREAM_KIND
        CONTENT_FORM SERVER_NAME_LEN STREAM_ID_LEN POOL_LEN REVERSE_PATH_LEN TAG_LEN RESERVED RECIPIENTS_LEN METADATA_LEN
        FIELDS_LEN VARIABLE);
    same!(check_layout recipient "recipient": FORWARD_PATH_LEN DOMAIN_LEN FIELDS_LEN VARIABLE);
    same!(check_layout metadata "metadata": KEY_LEN VALUE_LEN VARIABLE);
    same!(check_layout content_part "content_part": POSITION LEN);
    same!(check_layout content "content": MESSAGE_ID NUMBER RESERVED OCTETS);
    same!(check_layout event "event": KIND RECIPIENT_NUMBER RESERVED AT_UNIX_MS MESSAGE_ID FIELDS);
    same!(check_layout erased "erased": CRC KIND RESERVED DIGEST FIXED);
    same!(check_layout void "void": FROM TO);
    same!(check_layout redo_header "redo_header": MAGIC VERSION RESERVED ENTRIES CREATED_UNIX_MS CRC ENTRIES_BEGIN);
    same!(check_layout redo_entry "redo_entry": LOG_KIND KIND FLAGS RESERVED LEN SEGMENT OFFSET SALT CRC FIXED_LEN DIGEST FIXED);
    same!(check_layout field "field": TAG LEN BYTES);
    same!(check_layout checkpoint "checkpoint": MAGIC VERSION FORM RESERVED_1 CRC NUMBER BASE MAIL_FROM MAIL_TO EVENT_TO
        CREATED_UNIX_MS SALT FEATURES RESERVED_2);
    same!(check_layout checkpoint_block "checkpoint_block": LEN CRC KIND RESERVED PAYLOAD);
    same!(check_layout archive_header "archive_header": MAGIC VERSION RESERVED SEGMENT_HEADER FRAMES);
    same!(check_layout archive_footer "archive_footer": RAW_LEN TABLES FRAMES STREAMS OWNERS RECORDS OLDEST_UNIX_MS
        YOUNGEST_UNIX_MS ARCHIVED_UNIX_MS TABLES_CRC VERSION RESERVED CRC MAGIC);
    same!(check_layout archive_frame "archive_frame": OFFSET LEN CRC);
    same!(check_layout archive_stream "archive_stream": SERVER_ID RECORDS OLDEST_UNIX_MS YOUNGEST_UNIX_MS STREAM_ID_LEN
        VARIABLE);
    same!(check_layout base "base": MAGIC VERSION NAME_LEN CRC POSITION WRITTEN_UNIX_MS STATE_LEN VARIABLE);
    same!(check_layout archive_owner "archive_owner": MESSAGE_ID STREAM);
    same!(check_layout digests_header "digests_header": MAGIC VERSION RESERVED ENTRIES);
    same!(check_layout digest_entry "digest_entry": LOG_KIND RESERVED_1 CRC NUMBER FIRST_POSITION END SALT WRITTEN_UNIX_MS
        RECORDS RESERVED_2 DIGEST CHAIN);
}

#[test]
fn numbers_of_the_page_are_those_of_the_code() {
    same!(check_numbers kind "kinds": PADDING COMMIT MESSAGE CONTENT EVENT ERASED VOID DIGEST BODY);
    same!(check_numbers field_tag "field_tag": DSN_ENVID DSN_RET DSN_NOTIFY DSN_ORCPT DEADLINE SCHEDULE IDEMPOTENCY_KEY
        BODY_TYPE CLIENT_IP HELO PROTOCOL CREDENTIAL REFUSED KEY_ID PADDING IMPORTED TRACK_OPENS TRACK_LINKS
        BOUNCE_TYPE NOTICES NOTICE_OF);
    same!(check_numbers checkpoint_block_kind "checkpoint_block_kind": GAPS ENTRIES END);
    same!(check_numbers entry_flag "entry_flag": COPY PARTS MANY NEW_ORIGIN DEADLINE SCHEDULE TAGGED UNTAGGED);
    same!(check_numbers live_flag "live_flag": NEW_DOMAIN UNANNOUNCED REFUSED TRIED);
    same!(check_numbers event_kind "event_kind": ACCEPTED DEFERRED AMBIGUOUS DELIVERED BOUNCED EXPIRED CANCELLED
        SUPPRESSED UNSUPPRESSED BOUNCED_LATER COMPLAINED OPENED CLICKED SOURCE_STOPPED SOURCE_RESUMED
        SUSPENDED REROUTED RESUMED RETRIED RESCHEDULED DKIM_ACTIVATED DKIM_PAUSED DKIM_RESUMED
        DOMAIN_CHANGED SOURCE_CHANGED PEOPLE_MAIL);
    same!(check_numbers event_field "event_field": RECIPIENT SERVER_ID SERVER STREAM SOURCE REMOTE_HOST REPLY CAUSE
        DETAIL NEXT_ATTEMPT_MS ATTEMPTS MAIL_POSITION POOL TLS TAG SCOPE PADDING ORIGIN SINCE_MS IDEMPOTENCY STAGE
        REACTION RULE CONFIDENCE EVIDENCE DOMAIN SELECTOR REVERSE_PATH NOTICE
        NOTICE_AT DSN_TO DSN_NOTIFY DSN_RET DSN_ENVID DSN_ORCPT NOTICE_OF);
}

#[test]
fn sizes_of_the_page_are_those_of_the_code() {
    assert_eq!(layout::PAGE, 4096);
    assert_eq!(layout::ALIGNMENT, 8);
    assert_eq!(layout::header::COPY, 2048);
    assert_eq!(layout::header::RESERVED_2 + 1964, layout::header::COPY);
    assert_eq!(layout::commit::LEN, 40);
    let fixed = [
        layout::kind::MESSAGE,
        layout::kind::CONTENT,
        layout::kind::EVENT,
    ];
    assert_eq!(fixed.map(layout::fixed_len), [Some(72), Some(24), Some(32)]);
    assert_eq!(
        fixed.map(layout::erasable_len),
        [Some(112), Some(64), Some(72)]
    );
    assert_eq!(layout::COMMIT_RECORD_LEN, 56);
    assert_eq!(
        (layout::SEGMENT_SIZE_MIN, layout::SEGMENT_SIZE_MAX),
        (16 << 10, 1 << 30)
    );
    assert_eq!(
        layout::MAGIC,
        [0x89, 0x50, 0x48, 0x53, 0x0D, 0x0A, 0x1A, 0x0A]
    );
    assert_eq!(
        layout::ARCHIVE_MAGIC,
        [0x89, 0x50, 0x48, 0x41, 0x0D, 0x0A, 0x1A, 0x0A]
    );
    assert_eq!(
        layout::BASE_MAGIC,
        [0x89, 0x50, 0x48, 0x42, 0x0D, 0x0A, 0x1A, 0x0A]
    );
    assert_eq!(
        layout::DIGESTS_MAGIC,
        [0x89, 0x50, 0x48, 0x44, 0x0D, 0x0A, 0x1A, 0x0A]
    );
    assert_eq!(layout::digest_entry::SIZE, 128);
    assert_eq!(
        layout::CHECKPOINT_MAGIC,
        [0x89, 0x50, 0x48, 0x43, 0x0D, 0x0A, 0x1A, 0x0A]
    );
    assert_eq!(layout::checkpoint::RESERVED_2 + 44, layout::checkpoint::LEN);
    assert_eq!(layout::ARCHIVE_FRAME, 262_144);
    assert_eq!(layout::archive_footer::LEN, 76);
    assert!(FORMAT.contains(&format!(
        "# The spool format, version {}\n",
        layout::VERSION
    )));
    assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
}
