//! `--watch`: for what one looks at again and again.

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::{Context, Failure, OnInterrupt, remote::Remote};
use crate::client::Call;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// The flag.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Look again each second, until Ctrl-C.
    #[arg(long)]
    pub(super) watch: bool,
}

impl Watch {
    /// Makes a call and prints its body, once or again and again.
    pub(super) fn show(
        &self,
        context: &Context,
        remote: &Remote,
        call: &Call,
        print: impl Fn(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if !self.watch {
            return context.block_on(OnInterrupt::Fail, async { print(&remote.client.text(call).await?) });
        }
        context.block_on(OnInterrupt::Succeed, async {
            loop {
                match remote.client.text(call).await {
                    Ok(body) => {
                        remote.output.new_screen()?;
                        print(&body)?;
                    }
                    // The node may come back: that is what one watches for.
                    Err(error) => remote.output.report(&error.into()),
                }
                sleep(INTERVAL).await;
            }
        })
    }
}
