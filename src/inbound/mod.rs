//! What comes back by mail: reports about mail that left from here.
//!
//! `reading` understands what they say.

pub mod reading;
