//! What every linked system has to be able to do, and the task that keeps one going.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use halloo_protocol::call::CallId;
use halloo_protocol::linked::{LinkedId, ListEntry, Shown};
use halloo_protocol::simple::xml::XmlError;
use halloo_protocol::xmpp::scram::ScramError;
use halloo_protocol::xmpp::stream::StreamError;
use tokio::sync::mpsc;
use tracing::debug;

use super::tokens::Asked;
use super::{LinkedNews, News};
use crate::event_loop::Internal;

/// Pauses before a lost connection is made anew.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Why something didn't work in a linked system. Names no password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkedError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it doesn't answer")]
    Timeout,
    #[error("its answer is too long")]
    TooLong,
    #[error("its answer can't be read: {0}")]
    Unreadable(#[from] XmlError),
    #[error("it sends on to https://{0}, to which the password isn't told: give that address")]
    Elsewhere(String),
    #[error("not a server name: {0}")]
    Name(String),
    #[error("it has refused {what}: {reason}")]
    Refused { what: &'static str, reason: String },
    #[error("it offers no TLS, and nothing is said to it without")]
    NoTls,
    #[error("it has no place where something could be shown")]
    NoPlace,
    #[error("it has no place where something could be shown (personal eventing); `presence` among linked.carriers does without")]
    NoEventing,
    #[error("{0}")]
    Protocol(&'static str),
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("{0}")]
    Login(#[from] ScramError),
}

/// An account in another system. Calls come in the order login, contacts, then any; after an error, login again.
pub(crate) trait LinkedSystem: Send + 'static {
    /// What the system has to show something at; [`NoPlace`] if it has nothing of the kind.
    type Place: LinkedPlace;

    /// The place, for whoever wants to show something there or to look at others'.
    fn place(&mut self) -> Option<&mut Self::Place>;

    /// Logs in: this node is convinced that the account is its user's. Ends what was before.
    fn login(&mut self) -> impl Future<Output = Result<(), LinkedError>> + Send;

    /// Who is in the account's contact list, or reads what it shows. Changes are told from then on.
    fn contacts(&mut self) -> impl Future<Output = Result<Vec<ListEntry>, LinkedError>> + Send;

    /// Whether the connection still works.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;

    /// Waits until something has come. May be dropped at any time.
    fn wait(&mut self) -> impl Future<Output = Result<(), LinkedError>> + Send;

    /// Takes what has come.
    fn take(&mut self) -> impl Future<Output = Result<Vec<News>, LinkedError>> + Send;

    /// What has to be told at once after a login, also after one that failed.
    fn news(&mut self) -> Vec<News> {
        Vec::new()
    }

    /// Says goodbye.
    fn end(&mut self) -> impl Future<Output = ()> + Send;
}

/// Where in a system the owner of an account can write alone, and their contacts read. Not every system has one: those whose proofs stand by themselves do without.
pub(crate) trait LinkedPlace: Send {
    /// Puts an association where only the account's owner can write and their contacts can read: others are convinced by that.
    fn show(&mut self, shown: &Shown) -> impl Future<Output = Result<(), LinkedError>> + Send;

    /// Shows an association, and the leave beside it if there is one, in the account's presence, to everybody who sees that but these people, from then on and until the connection ends.
    fn announce(&mut self, shown: &Shown, denied: &[LinkedId]) -> impl Future<Output = Result<(), LinkedError>> + Send;

    /// Has the own place show nothing to these people, and to everybody else as before, from then on.
    fn deny(&mut self, denied: &[LinkedId]) -> impl Future<Output = Result<(), LinkedError>> + Send;

    /// What somebody's place shows, by the word of the system that has it.
    fn look(&mut self, at: &LinkedId) -> impl Future<Output = Result<Option<Shown>, LinkedError>> + Send;

    /// Has the own server name a commitment to an event: the token, which contacts can ask it about. Others are convinced by where it stands.
    fn issue(&mut self, commitment: &[u8; 32]) -> impl Future<Output = Result<String, LinkedError>> + Send;

    /// The commitment that somebody's server shows under a token at their place.
    fn token(&mut self, at: &LinkedId, token: &str) -> impl Future<Output = Result<Option<[u8; 32]>, LinkedError>> + Send;

    /// Has the own server forget a token.
    fn spend(&mut self, token: &str) -> impl Future<Output = Result<(), LinkedError>> + Send;
}

/// The place of systems that have none.
#[derive(Debug)]
pub(crate) enum NoPlace {}

impl LinkedPlace for NoPlace {
    async fn show(&mut self, _: &Shown) -> Result<(), LinkedError> {
        match *self {}
    }

    async fn announce(&mut self, _: &Shown, _: &[LinkedId]) -> Result<(), LinkedError> {
        match *self {}
    }

    async fn deny(&mut self, _: &[LinkedId]) -> Result<(), LinkedError> {
        match *self {}
    }

    async fn look(&mut self, _: &LinkedId) -> Result<Option<Shown>, LinkedError> {
        match *self {}
    }

    async fn issue(&mut self, _: &[u8; 32]) -> Result<String, LinkedError> {
        match *self {}
    }

    async fn token(&mut self, _: &LinkedId, _: &str) -> Result<Option<[u8; 32]>, LinkedError> {
        match *self {}
    }

    async fn spend(&mut self, _: &str) -> Result<(), LinkedError> {
        match *self {}
    }
}

/// What contacts are to be shown, and how.
#[derive(Debug)]
pub(crate) struct Showing {
    pub(super) shown: Shown,
    /// Who isn't to see it.
    pub(super) denied: Vec<LinkedId>,
    /// At the own place.
    pub(super) at_place: bool,
    /// In the account's presence, where the association alone is.
    pub(super) in_presence: bool,
}

/// What the event loop wants of an account.
#[derive(Debug)]
pub(crate) enum Order {
    /// Show this.
    Show(Box<Showing>),
    /// Look at somebody's place.
    Look(LinkedId),
    /// Have a token issued for a call.
    Issue { call: CallId, commitment: [u8; 32] },
    /// Ask what is shown under a token, for a call.
    Token(Box<Asked>),
    /// Have a token forgotten.
    Spend(String),
}

/// Which task's news they are: one that was ended isn't listened to any more.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) account: LinkedId,
    pub(super) number: u64,
}

impl Run {
    /// `false` if the node has ended.
    async fn tell(&self, what: News, news: &mpsc::Sender<Internal>) -> bool {
        let told = LinkedNews { account: self.account.clone(), number: self.number, what };
        news.send(Internal::Linked(Box::new(told))).await.is_ok()
    }
}

/// Keeps an account connected until its orders end, or the node does.
pub(super) async fn drive<S: LinkedSystem>(
    mut system: S,
    run: Run,
    mut orders: mpsc::Receiver<Order>,
    news: mpsc::Sender<Internal>,
) {
    let mut pause = RETRY_MIN;
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            () = news.closed() => return,
            ended = session(&mut system, &run, &mut orders, &news) => ended,
        };
        let Err(error) = ended else { return system.end().await };
        debug!(account = %run.account, %error, "linked system not connected");
        if !run.tell(News::Trouble(error.to_string()), &news).await {
            return;
        }
        if begun.elapsed() > RETRY_MAX {
            pause = RETRY_MIN;
        }
        if !rest(pause, &run, &mut orders, &news).await {
            return;
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Waits; whoever wants something meanwhile hears that it can't be. `false`: it is over.
async fn rest(pause: Duration, run: &Run, orders: &mut mpsc::Receiver<Order>, news: &mpsc::Sender<Internal>) -> bool {
    let until = tokio::time::Instant::now() + pause;
    loop {
        let order = tokio::select! {
            () = news.closed() => return false,
            () = tokio::time::sleep_until(until) => return true,
            order = orders.recv() => order,
        };
        let Some(order) = order else { return false };
        if let Some(told) = failed(order, "it isn't connected".to_owned())
            && !run.tell(told, news).await
        {
            return false;
        }
    }
}

/// One connection. `Ok`: it is over for good.
async fn session<S: LinkedSystem>(
    system: &mut S,
    run: &Run,
    orders: &mut mpsc::Receiver<Order>,
    news: &mpsc::Sender<Internal>,
) -> Result<(), LinkedError> {
    let logged_in = system.login().await;
    for what in system.news() {
        run.tell(what, news).await;
    }
    logged_in?;
    let list = system.contacts().await?;
    if !run.tell(News::Connected(list), news).await {
        return Ok(());
    }
    loop {
        for what in system.take().await? {
            run.tell(what, news).await;
        }
        let order = tokio::select! {
            biased;
            order = orders.recv() => Some(order),
            waited = system.wait() => {
                waited?;
                None
            }
        };
        let told = match order {
            Some(None) => return Ok(()),
            Some(Some(order)) => {
                let (what, is_lost) = carry_out(system, order).await;
                let told = match what {
                    Some(what) => run.tell(what, news).await,
                    None => true,
                };
                if is_lost {
                    return Err(LinkedError::Protocol("the connection was lost"));
                }
                told
            }
            None => true,
        };
        if !told {
            return Ok(());
        }
    }
}

/// What is told of an order that isn't carried out.
fn failed(order: Order, reason: String) -> Option<News> {
    Some(match order {
        Order::Show(_) => News::Shown(Err(reason)),
        Order::Look(at) => News::Seen { at, shown: Err(reason) },
        Order::Issue { call, .. } => News::Issued { call, token: Err(reason) },
        Order::Token(asked) => News::TokenShown { asked, shown: Err(reason) },
        Order::Spend(_) => return None,
    })
}

/// Carries out an order: what came of it, and whether the connection is lost.
async fn carry_out<S: LinkedSystem>(system: &mut S, order: Order) -> (Option<News>, bool) {
    let Some(place) = system.place() else { return (failed(order, LinkedError::NoPlace.to_string()), false) };
    let (what, error) = at_place(place, order).await;
    let is_lost = match &error {
        // It may be the contact's server that doesn't answer.
        Some((LinkedError::Timeout, true)) => !system.is_alive().await,
        error => error.as_ref().is_some_and(|(error, _)| is_fatal(error)),
    };
    (what, is_lost)
}

/// Shows contacts what they are to see. A system without places does with presence alone, where that is to be.
async fn show<P: LinkedPlace>(place: &mut P, showing: Showing) -> Result<(), LinkedError> {
    let Showing { shown, denied, at_place, in_presence } = showing;
    // Presence goes to everybody at each login: what has a place stands there alone.
    let mut announced = shown.clone();
    if at_place {
        match show_at_place(place, shown, &denied).await {
            Err(error) if is_without_places(&error) && in_presence => debug!(%error, "shown in presence alone"),
            Err(error) if is_without_places(&error) => return Err(LinkedError::NoEventing),
            shown => {
                shown?;
                announced.leave = None;
            }
        }
    }
    if in_presence { place.announce(&announced, &denied).await } else { Ok(()) }
}

/// Whether a server has nothing of the kind, rather than being unwilling.
fn is_without_places(error: &LinkedError) -> bool {
    let LinkedError::Refused { reason, .. } = error else { return matches!(error, LinkedError::NoPlace) };
    matches!(reason.as_str(), "service-unavailable" | "feature-not-implemented")
}

/// Puts something at the own place that some people aren't to read. Where the system can't keep it from them, nobody is given leave for anything.
async fn show_at_place<P: LinkedPlace>(place: &mut P, shown: Shown, denied: &[LinkedId]) -> Result<(), LinkedError> {
    let bare = Shown { leave: None, ..shown.clone() };
    let is_denied = match place.deny(denied).await {
        Ok(()) => true,
        Err(error) if is_fatal(&error) => return Err(error),
        // There may be no such place yet.
        Err(_) if !denied.is_empty() => {
            place.show(&bare).await?;
            let again = place.deny(denied).await;
            if let Err(error) = &again {
                debug!(%error, "what is shown can't be kept from somebody");
            }
            again.is_ok()
        }
        Err(_) => true,
    };
    place.show(if is_denied { &shown } else { &bare }).await
}

/// What came of an order, and what went wrong, where; true: perhaps at a contact's server.
async fn at_place<P: LinkedPlace>(place: &mut P, order: Order) -> (Option<News>, Option<(LinkedError, bool)>) {
    match order {
        Order::Show(showing) => {
            let (shown, error) = told(show(place, *showing).await);
            (Some(News::Shown(shown)), error.map(|error| (error, false)))
        }
        Order::Look(at) => {
            let (shown, error) = told(place.look(&at).await);
            (Some(News::Seen { at, shown: shown.map(|shown| shown.map(Box::new)) }), error.map(|error| (error, true)))
        }
        Order::Issue { call, commitment } => {
            let (token, error) = told(place.issue(&commitment).await);
            (Some(News::Issued { call, token }), error.map(|error| (error, false)))
        }
        Order::Token(asked) => {
            let (shown, error) = told(place.token(&asked.at, &asked.token).await);
            (Some(News::TokenShown { asked, shown }), error.map(|error| (error, true)))
        }
        Order::Spend(token) => {
            let error = place.spend(&token).await.err();
            error.iter().for_each(|error| debug!(%error, "a token isn't forgotten"));
            (None, error.map(|error| (error, false)))
        }
    }
}

/// An outcome as it is told, and what went wrong.
fn told<T>(outcome: Result<T, LinkedError>) -> (Result<T, String>, Option<LinkedError>) {
    match outcome {
        Ok(value) => (Ok(value), None),
        Err(error) => (Err(error.to_string()), Some(error)),
    }
}

/// Whether the connection is of no use any more; a refusal leaves it as it is.
const fn is_fatal(error: &LinkedError) -> bool {
    !matches!(error, LinkedError::Refused { .. } | LinkedError::NoPlace | LinkedError::NoEventing)
}
