//! The pairs of a configuration file, read by type: one function for each type, which names the accepted
//! range in its error. What a key means is decided in [`super::file`].

#![forbid(unsafe_code)]

use super::findings::ConfigError;
use super::keys;
use crate::properties::Property;

/// The `key=value` pairs of one file. Where a key occurs twice, the last occurrence counts.
pub(super) struct Values<'a>(pub &'a [Property]);

impl<'a> Values<'a> {
    pub fn all(&self) -> impl Iterator<Item = &'a Property> + use<'a> {
        self.0.iter()
    }

    pub fn last(&self, key: &str) -> Option<&'a Property> {
        self.0.iter().rev().find(|p| keys::plain(&p.key) == key)
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.last(key).map(|p| p.value.as_str()).filter(|v| !v.is_empty())
    }

    pub fn number(&self, key: &str, min: u64, max: u64) -> Result<Option<u64>, ConfigError> {
        let Some(p) = self.last(key) else { return Ok(None) };
        match p.value.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(bad(p, format!("a whole number from {min} to {max}"))),
        }
    }

    /// Reads a decimal or `0x` number, as Java's `Integer.getInteger` does.
    pub fn integer(&self, key: &str, min: i64, max: i64) -> Result<Option<i64>, ConfigError> {
        let Some(p) = self.last(key) else { return Ok(None) };
        let parsed = match p.value.strip_prefix("0x").or_else(|| p.value.strip_prefix("0X")) {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => p.value.parse(),
        };
        match parsed {
            Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(bad(p, format!("a whole number from {min} to {max}"))),
        }
    }

    pub fn switch(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let Some(p) = self.last(key) else { return Ok(None) };
        match p.value.to_ascii_lowercase().as_str() {
            "yes" | "true" => Ok(Some(true)),
            "no" | "false" => Ok(Some(false)),
            _ => Err(bad(p, "yes or no (true or false)".to_owned())),
        }
    }
}

/// The error that names the property's line and what it may hold.
pub(super) fn bad(p: &Property, expected: String) -> ConfigError {
    ConfigError::Value { line: p.line, key: p.key.clone(), value: p.value.clone(), expected }
}
