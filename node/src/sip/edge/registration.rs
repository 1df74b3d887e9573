//! Registrations: a phone is here, and what is kept of it.

use halloo_protocol::sip::message::Message;
use halloo_protocol::sip::push::PushWish;
use halloo_protocol::sip::registrar::{EXPIRES_SECS_MIN, FLOW_TIMER_SECS, RegisterError, Registrar};
use halloo_protocol::sip::transaction::Flow;
use halloo_protocol::sip::uri::SipUri;
use tracing::{debug, warn};

use super::{Edge, unix};
use crate::sip::accounts::Accounts;

const BINDINGS_FILE: &str = "bindings.json";

impl Edge {
    pub(super) fn register(&mut self, message: &Message, flow: Flow, account: &str) {
        let now = unix();
        let registered = self.push_wishes(account, message).and_then(|wishes| {
            let changed = self.registrar.register(account, message, flow, now)?;
            Ok((changed, wishes))
        });
        match registered {
            Ok((changed, wishes)) => {
                let push = self.feature_caps(account, flow, &wishes);
                // An app that sleeps comes back only if it is woken: it is kept before it is told that it may sleep.
                if changed.added > 0 && wishes.iter().any(|wish| matches!(wish, PushWish::Wake(_))) {
                    self.save_bindings();
                }
                self.is_registrar_changed = true;
                self.poke_desk(account);
                debug!(added = changed.added, removed = changed.removed, "registered");
                let aor = SipUri::parse(&format!("sip:{account}"));
                let is_outbound =
                    self.registrar.bindings(account, now).iter().any(|binding| binding.flow == flow && binding.is_outbound);
                let with_gruu = message.lists("supported", "gruu");
                let contacts = aor.map(|aor| self.registrar.contacts(account, &aor, with_gruu, now)).unwrap_or_default();
                self.answer(message, 200, "OK", flow, |answer| {
                    for contact in contacts {
                        answer.add("contact", contact);
                    }
                    for service in push {
                        answer.add("feature-caps", service);
                    }
                    answer.add("date", httpdate::fmt_http_date(std::time::SystemTime::now()));
                    if is_outbound {
                        answer.add("require", "outbound");
                        answer.add("flow-timer", FLOW_TIMER_SECS.to_string());
                    }
                });
                self.phones_came(account, flow);
            }
            Err(error) => {
                let push = if error == RegisterError::PushService { self.all_feature_caps(account) } else { Vec::new() };
                self.answer(message, error.status(), &error.to_string(), flow, |answer| {
                    if error == RegisterError::TooBrief {
                        answer.add("min-expires", EXPIRES_SECS_MIN.to_string());
                    }
                    for service in push {
                        answer.add("feature-caps", service);
                    }
                });
            }
        }
    }

    /// An account's phones have changed.
    pub(super) fn poke_desk(&self, account: &str) {
        if let Some(running) = self.running.get(account) {
            running.desk.poke();
        }
    }

    pub(super) fn save_bindings(&mut self) {
        let path = self.accounts.root().join(BINDINGS_FILE);
        let written = serde_json::to_vec(&self.registrar).map_err(|error| error.to_string());
        let written = written.and_then(|bytes| crate::home::write_secret(&path, &bytes).map_err(|error| error.to_string()));
        match written {
            Ok(()) => self.is_registrar_changed = false,
            Err(error) => warn!(%error, "registrations of phones aren't kept: tried again"),
        }
    }
}

/// Registrations of the last run. Those over connections are gone with it.
pub(super) fn read_bindings(accounts: &Accounts) -> Registrar {
    let read = std::fs::read(accounts.root().join(BINDINGS_FILE)).ok();
    let mut registrar: Registrar = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    registrar.keep_datagrams();
    registrar.expire(unix());
    registrar
}
