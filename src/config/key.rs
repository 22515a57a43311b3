//! The cluster's pre-shared key: reading it from its file, making a new one.
//!
//! The file has the format of IPFS private networks (`swarm.key`): a line with the type, one with the
//! encoding, 64 hexadecimal digits. Whoever holds it can join, so it must be readable by its owner only.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use libp2p::pnet::PreSharedKey;
use rand::{TryRng, rngs::SysRng};

/// A key file is shorter than this.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// Permission bits that let others than the owner at a file.
const OTHERS: u32 = 0o077;

/// Why a key file was refused; the text says what would be accepted.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKey {
    /// It is not there.
    #[error("a file that exists; `syncmesh init` makes one")]
    Missing,
    /// It is there, but cannot be read.
    #[error("a file that this process can read: {0}")]
    Unreadable(io::Error),
    /// Others than its owner may read or change it.
    #[error("a file that only its owner can read, not one of mode {mode:04o}: run `chmod 600` on it")]
    Exposed {
        /// The mode it has.
        mode: u32,
    },
    /// Its content is no key.
    #[error("the lines /key/swarm/psk/1.0.0/, /base16/ and 64 hexadecimal digits; `syncmesh init` makes such a file")]
    Malformed,
}

/// Reads the key from its file.
pub fn read(path: &Path) -> Result<PreSharedKey, InvalidKey> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => InvalidKey::Missing,
        _ => InvalidKey::Unreadable(error),
    })?;
    let metadata = file.metadata().map_err(InvalidKey::Unreadable)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_file() && mode & OTHERS != 0 {
        return Err(InvalidKey::Exposed { mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut bytes).map_err(InvalidKey::Unreadable)?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<PreSharedKey, InvalidKey> {
    let text = std::str::from_utf8(bytes).map_err(|_| InvalidKey::Malformed)?;
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    // libp2p's own parser slices the digits by bytes, and takes a sign for one.
    let well_formed = matches!(
        lines.as_slice(),
        ["/key/swarm/psk/1.0.0/", "/base16/", digits] if digits.bytes().all(|c| c.is_ascii_hexdigit())
    );
    if !well_formed {
        return Err(InvalidKey::Malformed);
    }
    lines.join("\n").parse().map_err(|_| InvalidKey::Malformed)
}

/// Draws a new key from the system's randomness; [`PreSharedKey::to_key_file`] is its file.
pub fn generate() -> io::Result<PreSharedKey> {
    let mut bytes = [0u8; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(PreSharedKey::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_read_back_from_its_file_text() {
        let key = generate().unwrap();
        assert_eq!(parse(key.to_key_file().as_bytes()).unwrap(), key);
        assert_ne!(generate().unwrap(), key);
    }

    #[test]
    fn what_is_not_a_key_is_malformed_and_never_panics() {
        let header = "/key/swarm/psk/1.0.0/\n/base16/\n";
        let digits = "0123456789abcdef".repeat(4);
        let good = format!("{header}{digits}\n");
        assert!(parse(good.as_bytes()).is_ok());
        for bad in [
            String::new(),
            digits.clone(),
            format!("{header}{}", &digits[1..]),
            format!("{header}{digits}0"),
            format!("{header}{digits}\n{digits}\n"),
            format!("{header}+{}", &digits[1..]),
            format!("{header}é{}", &digits[2..]),
            good.replace("base16", "base64"),
            good.replace("1.0.0", "2.0.0"),
        ] {
            assert!(matches!(parse(bad.as_bytes()), Err(InvalidKey::Malformed)), "{bad:?}");
        }
        assert!(matches!(parse(&[0xff, 0xfe]), Err(InvalidKey::Malformed)));
    }
}
