//! What operators read: the four-letter words.
//!
//! Owns their names, the list of those enabled, and the text of each answer. Never is on the path of a client's
//! request: a shard recognises a word in the first four bytes of a connection, asks this room for the text, and closes.
//! It stays correct because everything it prints is a copy of counters; it changes nothing.

#![forbid(unsafe_code)]

pub mod text;
pub mod words;
