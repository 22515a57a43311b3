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
    append(Vec::with_capacity(128), value).into()
}

/// Encodes a value after these bytes.
pub fn append<T: Serialize>(bytes: Vec<u8>, value: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(bytes, value).expect("derived encodings of plain data into memory do not fail")
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

/// Bytes of anybody's making, for the tests of what is decoded.
#[cfg(test)]
pub(crate) mod hostile {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    /// A decoded value may be encoded longer than it came: variants by number, not by name.
    const MOST_GROWTH: usize = 64;
    /// Heads that announce more than there is: text, bytes, a list, a map, nesting, a list without an end.
    const BOMBS: [&[u8]; 6] = [
        b"\x7b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",
        &[0x81; 600],
        b"\x9f",
    ];

    #[derive(Clone, Debug)]
    enum Damage {
        Set(Index, u8),
        Insert(Index, u8),
        Bomb(Index, usize),
        Cut(Index),
        Remove(Index),
        Double(Index),
    }

    fn damage() -> impl Strategy<Value = Damage> {
        let at = any::<Index>;
        prop_oneof![
            4 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
            2 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
            2 => (at(), 0..BOMBS.len()).prop_map(|(at, bomb)| Damage::Bomb(at, bomb)),
            1 => at().prop_map(Damage::Cut),
            1 => at().prop_map(Damage::Remove),
            1 => at().prop_map(Damage::Double),
        ]
    }

    fn damaged(mut bytes: Vec<u8>, damages: Vec<Damage>) -> Vec<u8> {
        for damage in damages {
            let within = |at: Index| at.index(bytes.len() + 1);
            match damage {
                Damage::Insert(at, byte) => bytes.insert(within(at), byte),
                Damage::Bomb(at, bomb) => {
                    let at = within(at);
                    bytes.splice(at..at, BOMBS[bomb].iter().copied());
                }
                Damage::Cut(at) => bytes.truncate(within(at)),
                Damage::Double(at) => bytes.extend_from_within(within(at)..),
                Damage::Set(at, byte) if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                Damage::Remove(at) if !bytes.is_empty() => _ = bytes.remove(at.index(bytes.len())),
                Damage::Set(..) | Damage::Remove(_) => {}
            }
        }
        bytes
    }

    /// At random, or what somebody sent, changed here and there.
    pub(crate) fn bytes(sent: Vec<Bytes>) -> impl Strategy<Value = Vec<u8>> {
        let random = prop::collection::vec(any::<u8>(), 0..512);
        let changed = (prop::sample::select(sent), prop::collection::vec(damage(), 0..6))
            .prop_map(|(bytes, damages)| damaged(bytes.to_vec(), damages));
        prop_oneof![1 => random, 7 => changed]
    }

    /// Decodes them, or does not. What they are decoded into is no larger than they can account for.
    pub(crate) fn is_decoded_or_refused<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        if let Ok(value) = decode::<T>(bytes) {
            let length = encoded_len(&value);
            assert!(length <= MOST_GROWTH * bytes.len(), "{length} bytes of {}", bytes.len());
        }
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
