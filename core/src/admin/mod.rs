//! What operators read: the four-letter words.
//!
//! Owns the words that are answered, the whitelist, and the text of each answer.
//! Never on the path of a request: a shard recognises a word in the first four bytes of a connection, calls
//! this module for the text, and closes the connection.
//! Correct because it changes nothing: it formats copies of counters.

#![forbid(unsafe_code)]

pub mod text;
pub mod words;
