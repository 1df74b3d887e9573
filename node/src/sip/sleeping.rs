//! Phones that a call waits for: they can be woken, and haven't shown yet that they have it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use halloo_protocol::sip::push::PushParams;
use halloo_protocol::sip::registrar::Binding;

/// How long a phone may stay silent whose way looks open, before it is woken too.
const SILENCE: Duration = Duration::from_secs(1);

/// When a phone is woken again that hasn't come, and how often.
const AGAIN: Duration = Duration::from_secs(6);
const TIMES_MAX: u32 = 4;

/// Which they are, and when they are woken next.
#[derive(Debug)]
pub(super) struct Sleeping {
    apps: BTreeSet<PushParams>,
    asked: u32,
    ask_at: Instant,
}

impl Sleeping {
    pub(super) fn new(phones: &[(Binding, Option<SocketAddr>)]) -> Self {
        let apps = phones.iter().filter_map(|(binding, _)| binding.push.clone()).collect();
        Self { apps, asked: 0, ask_at: Instant::now() + SILENCE }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    pub(super) fn contains(&self, app: &PushParams) -> bool {
        self.apps.contains(app)
    }

    /// It has shown that it has the call.
    pub(super) fn is_awake(&mut self, app: Option<&PushParams>) {
        if let Some(app) = app {
            self.apps.remove(app);
        }
    }

    /// The call is over.
    pub(super) fn clear(&mut self) {
        self.apps.clear();
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_empty() && self.asked < TIMES_MAX).then_some(self.ask_at)
    }

    /// Those to be woken now.
    pub(super) fn ask_again(&mut self, now: Instant) -> Vec<PushParams> {
        self.asked += 1;
        self.ask_at = now + AGAIN;
        self.apps.iter().cloned().collect()
    }
}
