//! The value of `cache put`, from the command line or stdin, and the value of `cache get` as a text.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
};

use anyhow::Context as _;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    api::queue_bodies::Encoding,
    cli::Failure,
    error::{Error, ErrorCode},
};

/// Most bytes of a value: the greatest MAX_VALUE_BYTES that there is. The node may take less, and says so.
const MAX_VALUE_BYTES: u64 = 64 * 1024 * 1024;

/// What was given on the command line, or `-` for all of stdin.
pub(super) async fn given(value: OsString) -> Result<Bytes, Failure> {
    if value != "-" {
        return Ok(value.into_vec().into());
    }
    let (send, read) = oneshot::channel();
    // It may wait for a terminal: nobody waits for it at the end.
    std::thread::spawn(move || {
        // Whoever asked may have been interrupted.
        let _ = send.send(read_all(io::stdin().lock(), MAX_VALUE_BYTES));
    });
    read.await.context("stdin was not read to its end")?
}

/// Everything, if it is at most `limit` bytes.
fn read_all(input: impl Read, limit: u64) -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    input.take(limit + 1).read_to_end(&mut value).context("stdin cannot be read")?;
    if value.len() as u64 > limit {
        let mut error =
            Error::new(ErrorCode::PayloadTooLarge, format!("stdin has more than {limit} bytes: nothing was stored"));
        error.details.limit = Some(limit);
        return Err(error.into());
    }
    Ok(value.into())
}

/// As it is where it is UTF-8, else in base64.
pub(super) fn as_text(value: &[u8]) -> (String, Encoding) {
    match std::str::from_utf8(value) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (STANDARD.encode(value), Encoding::Base64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_stdin_is_a_value_line_ends_too_up_to_the_limit() {
        assert_eq!(read_all(&b"a\n\xff\n"[..], 4).unwrap(), &b"a\n\xff\n"[..]);
        assert_eq!(read_all(&b""[..], 4).unwrap(), Bytes::new());
        let refusal = read_all(&b"12345"[..], 4).unwrap_err();
        assert!(matches!(&refusal, Failure::Operation(error) if error.details.limit == Some(4)), "{refusal:?}");
        // It does not read an endless input to its end.
        assert_eq!(read_all(io::repeat(0), 4).unwrap_err().exit_code(), 1);
    }
}
