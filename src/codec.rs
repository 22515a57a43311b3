//! CBOR (RFC 8949), the one encoding of everything that nodes say to each other and keep on disk.
//!
//! A leaf. Whoever decodes what a peer sent limits its size first: a decoded value may take some
//! thirty times the memory of its encoding.

use std::io;

use bytes::Bytes;
use cbor4ii::core::{dec::Read, utils::SliceReader};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes that are not the encoding of what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unreadable encoding: {0}")]
pub struct Unreadable(String);

impl Unreadable {
    /// Says why bytes that could be decoded are not what was expected.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<Unreadable> for io::Error {
    fn from(unreadable: Unreadable) -> Self {
        Self::new(io::ErrorKind::InvalidData, unreadable)
    }
}

/// Encodes a value. The types of this crate that travel have no case that cannot be encoded.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    let bytes = cbor4ii::serde::to_vec(Vec::with_capacity(128), value)
        .expect("derived encodings of plain data into memory do not fail");
    Bytes::from(bytes)
}

/// How many bytes [`encode`] makes of a value, without making them.
pub fn encoded_len<T: Serialize>(value: &T) -> usize {
    let mut length = Length(0);
    cbor4ii::serde::to_writer(&mut length, value).expect("counting does not fail where encoding does not");
    length.0
}

/// Counts bytes instead of keeping them.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes a value that must fill the bytes exactly.
///
/// # Errors
/// [`Unreadable`] where the bytes are not the encoding of such a value, or go on after it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    let mut deserializer = cbor4ii::serde::Deserializer::new(SliceReader::new(bytes));
    let value = T::deserialize(&mut deserializer).map_err(|error| Unreadable(error.to_string()))?;
    let mut reader = deserializer.into_inner();
    match reader.fill(1) {
        Ok(rest) if rest.as_ref().is_empty() => Ok(value),
        _ => Err(Unreadable("bytes after its end".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn a_value_comes_back_as_it_was() {
        let sent = (NodeId::from_bytes([7; 32]), Some(9u64), "text".to_owned());
        assert_eq!(encoded_len(&sent), encode(&sent).len());
        assert_eq!(decode(&encode(&sent)), Ok(sent));
    }

    #[test]
    fn a_node_id_travels_as_its_bytes() {
        assert_eq!(encode(&NodeId::from_bytes([7; 32])).len(), 34);
    }

    #[test]
    fn garbage_and_what_follows_a_value_are_refused() {
        let mut bytes = encode(&7u64).to_vec();
        bytes.push(0);
        assert!(decode::<u64>(&bytes).is_err());
        assert!(decode::<u64>(b"").is_err());
        assert!(decode::<Vec<u64>>(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff").is_err(), "a length bomb");
        assert!(decode::<u64>(&[0x81; 10_000]).is_err(), "a nesting bomb");
    }
}
