//! Vectors: in wire form after decoding, or a slice to be encoded.
//!
//! Owns how a list is walked twice. Decoding walks it to find its end and every mistake in it, and
//! iteration walks it again. Never copies an item's bytes. Correct because only the first walk can make
//! the wire form, so that the second reads the same bytes with the same limits.

use super::primitives::{DecodeError, Reader, Text, put_int, put_text, wire_length};
use std::fmt;

/// Element type of a [`List`].
pub trait ListItem<'a>: Clone + PartialEq + fmt::Debug {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
    fn put(&self, out: &mut Vec<u8>);
}

/// Strings of a vector: a null string is refused.
impl<'a> ListItem<'a> for Text<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.text()
    }
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, self);
    }
}

/// A `vector<T>`. Null and empty are different values.
pub struct List<'a, T>(ListForm<'a, T>);

enum ListForm<'a, T> {
    Null,
    Wire { count: u32, reader: Reader<'a> },
    Slice(&'a [T]),
}

// By hand: a derived `Copy` would require `T: Copy`.
impl<T> Clone for ListForm<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for ListForm<'_, T> {}
impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for List<'_, T> {}

impl<'a, T: ListItem<'a>> List<'a, T> {
    pub const NULL: Self = Self(ListForm::Null);
    pub const EMPTY: Self = Self(ListForm::Slice(&[]));

    /// A vector of `items`, to be encoded.
    pub const fn new(items: &'a [T]) -> Self {
        Self(ListForm::Slice(items))
    }
    /// Reads a vector to its end. A count below -1 is an empty vector, as in ZooKeeper.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.int()?;
        if count == -1 {
            return Ok(Self::NULL);
        }
        let count = u32::try_from(count).unwrap_or(0);
        let start = *reader;
        // Each item takes at least one byte, so a huge count ends at the end of the frame.
        for _ in 0..count {
            T::read(reader)?;
        }
        let used = start.rest().len() - reader.rest().len();
        Ok(Self(ListForm::Wire { count, reader: Reader::new(&start.rest()[..used], start.limits()) }))
    }
    /// Reads a vector that may not be null.
    pub fn read_present(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let list = Self::read(reader)?;
        if list.is_null() { Err(DecodeError::NullList) } else { Ok(list) }
    }
    /// Appends the count and the items. The count of a null vector is -1.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self.0 {
            ListForm::Null => put_int(out, -1),
            _ => {
                put_int(out, wire_length(self.len()));
                for item in self.iter() {
                    item.put(out);
                }
            }
        }
    }
    pub const fn is_null(&self) -> bool {
        matches!(self.0, ListForm::Null)
    }
    /// Number of items; 0 for the null vector.
    pub const fn len(&self) -> usize {
        match self.0 {
            ListForm::Null => 0,
            ListForm::Wire { count, .. } => count as usize,
            ListForm::Slice(items) => items.len(),
        }
    }
    /// Whether the vector is null or has no items.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The items, decoded in place.
    pub fn iter(&self) -> ListIter<'a, T> {
        ListIter(match self.0 {
            ListForm::Null => ListForm::Slice(&[]),
            form => form,
        })
    }
}

impl<'a, T: ListItem<'a>> Default for List<'a, T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<'a, T: ListItem<'a>> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.is_null() == other.is_null() && self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: ListItem<'a>> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() { f.write_str("null") } else { f.debug_list().entries(self.iter()).finish() }
    }
}

impl<'a, T: ListItem<'a>> IntoIterator for List<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;
    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}

impl<'a, T: ListItem<'a>> IntoIterator for &List<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;
    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}

/// Iterator over a [`List`].
pub struct ListIter<'a, T>(ListForm<'a, T>);

impl<'a, T: ListItem<'a>> Iterator for ListIter<'a, T> {
    type Item = T;
    #[inline]
    fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            ListForm::Null => None,
            ListForm::Wire { count, reader } => {
                *count = count.checked_sub(1)?;
                T::read(reader).ok()
            }
            ListForm::Slice(items) => {
                let (first, rest) = items.split_first()?;
                *items = rest;
                Some(first.clone())
            }
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = match self.0 {
            ListForm::Null => 0,
            ListForm::Wire { count, .. } => count as usize,
            ListForm::Slice(items) => items.len(),
        };
        (n, Some(n))
    }
}

impl<'a, T: ListItem<'a>> ExactSizeIterator for ListIter<'a, T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Limits;

    fn texts(bytes: &[u8]) -> Result<List<'_, Text<'_>>, DecodeError> {
        List::read(&mut Reader::new(bytes, Limits::NONE))
    }

    #[test]
    fn a_count_below_minus_one_is_an_empty_vector() {
        for (count, null) in [(-1, true), (-2, false), (i32::MIN, false), (0, false)] {
            let bytes = i32::to_be_bytes(count);
            let list = texts(&bytes).unwrap();
            assert_eq!((list.is_null(), list.len(), list.iter().count()), (null, 0, 0), "count {count}");
        }
    }

    #[test]
    fn a_huge_count_ends_with_the_frame_and_reserves_nothing() {
        let mut bytes = i32::MAX.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 1, b'a']);
        assert_eq!(texts(&bytes).unwrap_err(), DecodeError::Short { needed: 4, left: 0 });
    }

    #[test]
    fn a_list_read_and_a_list_made_are_equal() {
        let items = [Text::from("a"), Text::from("")];
        let made = List::new(&items);
        let mut bytes = Vec::new();
        made.put(&mut bytes);
        bytes.extend(b"junk");
        let mut reader = Reader::new(&bytes, Limits::NONE);
        let read = List::<Text>::read(&mut reader).unwrap();
        assert_eq!(read, made);
        assert_eq!(reader.rest(), b"junk");
        assert_ne!(List::<Text>::NULL, List::EMPTY);
    }
}
