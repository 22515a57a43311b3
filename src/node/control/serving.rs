//! What the task answers to the calls of peers.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};

use super::{ControlTask, Done};
use crate::{
    codec::{decode, encode},
    ids::NodeId,
    net::Inbound,
    node::{
        events::news::{self, News},
        wire::{ControlCall, ControlReply, Refused},
    },
    telemetry::recent_logs,
};

/// Most control calls from peers that are served at a time; further ones are refused.
const MAX_SERVED: usize = 1_024;

impl ControlTask {
    /// What is not for everyone. The barred are let in so far that they can be told.
    fn refusal(&self, from: NodeId, call: &ControlCall) -> Option<ControlReply> {
        let asks_the_leader = matches!(call, ControlCall::Join(_) | ControlCall::Heartbeat { .. });
        match call {
            _ if asks_the_leader && self.parts.route.view().barred.contains(&from) => {
                Some(ControlReply::Refused(Refused::Barred))
            }
            ControlCall::Hello(_) | ControlCall::Info => None,
            // Whoever joins has been greeted as one of this cluster, or of none.
            ControlCall::Join(_) if self.parts.greeted.borrow().contains_key(&from) => None,
            ControlCall::Heartbeat { incarnation, .. } if !self.parts.route.is_member(from) => {
                let left = self.parts.route.has_left(from, *incarnation);
                Some(if left { ControlReply::Refused(Refused::HasLeft) } else { ControlReply::JoinFirst })
            }
            ControlCall::Drain { .. }
            | ControlCall::Stop { .. }
            | ControlCall::Heartbeat { .. }
            | ControlCall::PleaseLeave
            | ControlCall::LeaveWithin { .. }
            | ControlCall::Logs
            | ControlCall::News(_)
                if self.parts.route.is_member(from) =>
            {
                None
            }
            _ => Some(ControlReply::NotLeader(self.parts.route.leader())),
        }
    }

    fn leave(&self, peer: NodeId, within: Option<Duration>) {
        info!(%peer, ?within, "was asked to leave the cluster");
        self.parts.leaving.ask(within);
    }

    /// A member tells what it alone can see. Lock managers know from the log what happens to locks.
    fn heard_news(&mut self, from: NodeId, news: News) {
        if matches!(news, News::LockBroken { .. }) && self.parts.raft.is_some() {
            return;
        }
        if self.heard.take() {
            news::heard(&self.parts.events, self.parts.clock.wall(), from, news);
        } else {
            self.parts.bounds.hit("node.news-heard");
        }
    }

    pub(super) fn serve(&mut self, inbound: Inbound) {
        let Inbound { from, body, reply, .. } = inbound;
        let call = match decode::<ControlCall>(&body) {
            Ok(call) => call,
            Err(reason) => {
                debug!(peer = %from, %reason, "sent what cannot be read");
                let _ = reply.send(encode(&ControlReply::Refused(Refused::Malformed)));
                return;
            }
        };
        if let Some(refusal) = self.refusal(from, &call) {
            debug!(peer = %from, ?call, ?refusal, "refused a control call");
            // Who asks needs no answer once it has gone.
            let _ = reply.send(encode(&refusal));
            return;
        }
        match call {
            ControlCall::Hello(hello) => {
                self.peers.entry(from).or_insert_with(|| Some(Instant::now()));
                // Who asks needs no answer once it has gone.
                let _ = reply.send(encode(&ControlReply::Hello(Box::new(self.hello()))));
                self.heard(from, *hello);
            }
            ControlCall::PleaseLeave => {
                self.leave(from, None);
                let _ = reply.send(encode(&ControlReply::Done));
            }
            ControlCall::LeaveWithin { deadline_ms } => {
                self.leave(from, Some(Duration::from_millis(deadline_ms)));
                let _ = reply.send(encode(&ControlReply::Done));
            }
            ControlCall::News(news) => {
                self.heard_news(from, *news);
                let _ = reply.send(encode(&ControlReply::Done));
            }
            call if self.served < MAX_SERVED => {
                self.served += 1;
                let (authority, observer) = (self.parts.authority.clone(), self.parts.observer.clone());
                let leader = self.parts.route.leader();
                self.work.spawn(async move {
                    let answer = match (call, authority) {
                        (ControlCall::Info, _) => ControlReply::Info(observer.info_json().await),
                        (ControlCall::Logs, _) => {
                            let logs = recent_logs();
                            ControlReply::Logs { text: logs.lines.join("\n"), forgotten: logs.forgotten }
                        }
                        (call, Some(authority)) => authority.control(from, call).await,
                        (_, None) => ControlReply::NotLeader(leader),
                    };
                    let _ = reply.send(encode(&answer));
                    Done::Served
                });
            }
            // Dropping the reply refuses the call.
            _ => {}
        }
    }
}
