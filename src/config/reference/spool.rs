//! `[spool]`.

use super::{SectionDoc, key};

pub(super) const SECTION: SectionDoc = SectionDoc {
    path: "spool",
    heading: "[spool]",
    about: "The mail log and the event log.",
    keys: &[
        key(
            "mail_segment",
            "SIZE",
            "64MiB",
            "Size of a segment of the mail log; 4MiB to 1GiB, a multiple of 4KiB.",
        ),
        key(
            "event_segment",
            "SIZE",
            "16MiB",
            "Size of a segment of the event log; 256KiB to 1GiB, a multiple of 4KiB.",
        ),
        key(
            "reserve",
            "SIZE",
            "256MiB",
            "Space kept for the outcomes of accepted mail.",
        ),
        key(
            "refuse_below",
            "SIZE",
            "2GiB",
            "With less free space than this (or than 10 % of the file system, whichever is smaller) new mail gets 452 4.3.1.",
        ),
        key(
            "warn_below",
            "SIZE",
            "4GiB",
            "With less free space than this (or than 20 % of the file system, whichever is smaller) an alarm is raised, and archived content is removed before its time, the oldest first.",
        ),
        key(
            "retention",
            "DURATION",
            "45d",
            "How long content is kept, compressed, from its acceptance on, once every recipient is done; 0d to 365d. It is gone within a day of that time. 0d: it goes with its segment.",
        ),
        key(
            "archive_max",
            "SIZE",
            "no bound",
            "Archived content that is kept at most; the oldest goes first.",
        ),
        key(
            "event_retention",
            "DURATION",
            "400d",
            "How long events are kept, compressed; 1d to 4000d.",
        ),
        key(
            "any_file_system",
            "BOOL",
            "false",
            "Go on where allocated space can run out later (copy-on-write and network file systems), which is refused otherwise.",
        ),
    ],
};
