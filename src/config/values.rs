//! The types of settings that have more to say than a number or a path.
//!
//! Data only: parsed by `parse`, carried by [`Config`](super::Config), read by everyone.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A text that is never shown: `Debug` and `Display` print a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

/// What stands in place of a secret.
pub const REDACTED: &str = "<redacted>";

impl Secret {
    /// Takes a text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into_boxed_str())
    }

    /// The text itself, for the one place that needs it. Never log or print it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// `host:port`, where the host is an IPv4 address, a bracketed IPv6 address or a DNS name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    text: String,
    port: u16,
}

impl HostPort {
    /// As written: what [`tokio::net::TcpListener::bind`] takes.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let host = self.text.rsplit_once(':').map_or("", |(host, _)| host);
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
    }

    /// The port; 0 lets the system choose one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether only this machine can reach it. A DNS name other than `localhost` counts as reachable.
    pub fn is_loopback(&self) -> bool {
        match self.host().parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host().eq_ignore_ascii_case("localhost"),
        }
    }

    /// The URL under which a client on this machine reaches it: an unspecified address reads as loopback.
    pub fn client_url(&self) -> String {
        match self.host().parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => format!("http://127.0.0.1:{}", self.port),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => format!("http://[::1]:{}", self.port),
            _ => format!("http://{}", self.text),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "host:port, such as 127.0.0.1:8080 or [::]:8080".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let well_formed = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
            None => is_host_name(host),
        };
        if !well_formed || port.is_empty() || !port.bytes().all(|c| c.is_ascii_digit()) {
            return Err(expected());
        }
        let port = port.parse().map_err(|_| "host:port with a port of 0 to 65535".to_owned())?;
        Ok(Self { text: text.to_owned(), port })
    }
}

/// A DNS name or IPv4 address (RFC 1123, section 2.1; underscores are allowed, as container names have them).
fn is_host_name(host: &str) -> bool {
    let looks_like_ipv4 = host.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    if looks_like_ipv4 {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        })
}

/// A setting that is one of a few words.
pub(super) trait Word: Sized {
    /// The value that this word, exactly so, stands for.
    fn from_word(word: &str) -> Option<Self>;
}

/// Defines an enum whose variants are the words that a setting accepts.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The words, in the order in which they are offered.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Word for $name {
            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// How a linearizable read is confirmed.
    LockReads {
        /// A quorum round for each batch of reads (ReadIndex).
        Index = "index",
        /// The leader's lease: no message, but it trusts clocks to run at about the same speed.
        Lease = "lease",
    }
}

words! {
    /// The coherence protocol of a cluster's caches.
    CacheProtocol {
        /// Modified, Exclusive, Shared, Invalid.
        Mesi = "MESI",
        /// Modified, Owned, Shared, Invalid.
        Mosi = "MOSI",
        /// Modified, Owned, Exclusive, Shared, Invalid.
        Moesi = "MOESI",
    }
}

words! {
    /// When a store into an owned line is acknowledged.
    CacheWritePolicy {
        /// Locally.
        Back = "back",
        /// When the home has it too.
        Through = "through",
    }
}

words! {
    /// What a read gets that can reach no home.
    CacheCutOff {
        /// A miss.
        Miss = "miss",
        /// The error `unavailable`.
        Unavailable = "unavailable",
    }
}

words! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// Something that is switched on or off.
    Switch {
        /// On.
        On = "on",
        /// Off.
        Off = "off",
    }
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}
