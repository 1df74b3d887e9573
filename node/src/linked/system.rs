//! What every linked system has to be able to do, and the task that keeps one going.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use halloo_protocol::call::CallId;
use halloo_protocol::linked::{LinkedId, ListEntry, Shown};
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
    #[error("not a server name: {0}")]
    Name(String),
    #[error("it has refused {what}: {reason}")]
    Refused { what: &'static str, reason: String },
    #[error("it offers no TLS, and nothing is said to it without")]
    NoTls,
    #[error("{0}")]
    Protocol(&'static str),
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("{0}")]
    Login(#[from] ScramError),
}

/// An account in another system. Calls come in the order login, contacts, then any; after an error, login again.
pub(crate) trait LinkedSystem: Send + 'static {
    /// Logs in: this node is convinced that the account is its user's. Ends what was before.
    fn login(&mut self) -> impl Future<Output = Result<(), LinkedError>> + Send;

    /// Who is in the account's contact list, or reads what it shows. Changes are told from then on.
    fn contacts(&mut self) -> impl Future<Output = Result<Vec<ListEntry>, LinkedError>> + Send;

    /// Puts an association where only the account's owner can write and their contacts can read: others are convinced by that.
    fn show(&mut self, shown: &Shown) -> impl Future<Output = Result<(), LinkedError>> + Send;

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

    /// Whether the connection still works.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;

    /// Waits until something has come. May be dropped at any time.
    fn wait(&mut self) -> impl Future<Output = Result<(), LinkedError>> + Send;

    /// Takes what has come.
    fn take(&mut self) -> impl Future<Output = Result<Vec<ListEntry>, LinkedError>> + Send;

    /// Says goodbye.
    fn end(&mut self) -> impl Future<Output = ()> + Send;
}

/// What the event loop wants of an account.
#[derive(Debug)]
pub(crate) enum Order {
    /// Put this at the own place, where these people can't read it.
    Show(Box<Shown>, Vec<LinkedId>),
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
        let failed = "it isn't connected".to_owned();
        let told = match order {
            None => return false,
            Some(Order::Show(..)) => News::Shown(Err(failed)),
            Some(Order::Look(at)) => News::Seen { at, shown: Err(failed) },
            Some(Order::Issue { call, .. }) => News::Issued { call, token: Err(failed) },
            Some(Order::Token(asked)) => News::TokenShown { asked, shown: Err(failed) },
            Some(Order::Spend(_)) => continue,
        };
        if !run.tell(told, news).await {
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
    system.login().await?;
    let list = system.contacts().await?;
    if !run.tell(News::Connected(list), news).await {
        return Ok(());
    }
    loop {
        for change in system.take().await? {
            run.tell(News::Changed(change), news).await;
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
            Some(Some(Order::Show(shown, denied))) => {
                let shown = show(system, *shown, &denied).await;
                let is_lost = shown.as_ref().is_err_and(is_fatal);
                let told = run.tell(News::Shown(shown.map_err(|error| error.to_string())), news).await;
                if is_lost {
                    return Err(LinkedError::Protocol("the connection was lost"));
                }
                told
            }
            Some(Some(Order::Look(at))) => {
                let shown = system.look(&at).await;
                let is_lost = match &shown {
                    // The contact's server may be what doesn't answer.
                    Err(LinkedError::Timeout) => !system.is_alive().await,
                    shown => shown.as_ref().is_err_and(is_fatal),
                };
                let told = run
                    .tell(
                        News::Seen { at, shown: shown.map(|shown| shown.map(Box::new)).map_err(|error| error.to_string()) },
                        news,
                    )
                    .await;
                if is_lost {
                    return Err(LinkedError::Protocol("the connection was lost"));
                }
                told
            }
            Some(Some(order)) => {
                let (what, is_lost) = about_tokens(system, order).await;
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

/// Puts something at the own place that some people aren't to read. Where the system can't keep it from them, nobody is given leave for anything.
async fn show<S: LinkedSystem>(system: &mut S, shown: Shown, denied: &[LinkedId]) -> Result<(), LinkedError> {
    let bare = Shown { leave: None, ..shown.clone() };
    let is_denied = match system.deny(denied).await {
        Ok(()) => true,
        Err(error) if is_fatal(&error) => return Err(error),
        // There may be no such place yet.
        Err(_) if !denied.is_empty() => {
            system.show(&bare).await?;
            let again = system.deny(denied).await;
            if let Err(error) = &again {
                debug!(%error, "what is shown can't be kept from somebody");
            }
            again.is_ok()
        }
        Err(_) => true,
    };
    system.show(if is_denied { &shown } else { &bare }).await
}

/// Carries out what is about tokens: what came of it, and whether the connection is lost.
async fn about_tokens<S: LinkedSystem>(system: &mut S, order: Order) -> (Option<News>, bool) {
    match order {
        Order::Issue { call, commitment } => {
            let token = system.issue(&commitment).await;
            let is_lost = token.as_ref().is_err_and(is_fatal);
            (Some(News::Issued { call, token: token.map_err(|error| error.to_string()) }), is_lost)
        }
        Order::Token(asked) => {
            let shown = system.token(&asked.at, &asked.token).await;
            let is_lost = match &shown {
                // As with a look: the contact's server may be what doesn't answer.
                Err(LinkedError::Timeout) => !system.is_alive().await,
                shown => shown.as_ref().is_err_and(is_fatal),
            };
            (Some(News::TokenShown { asked, shown: shown.map_err(|error| error.to_string()) }), is_lost)
        }
        Order::Spend(token) => {
            let spent = system.spend(&token).await;
            if let Err(error) = &spent {
                debug!(%error, "a token isn't forgotten");
            }
            (None, spent.as_ref().is_err_and(is_fatal))
        }
        Order::Show(..) | Order::Look(_) => (None, false),
    }
}

/// Whether the connection is of no use any more; a refusal leaves it as it is.
const fn is_fatal(error: &LinkedError) -> bool {
    !matches!(error, LinkedError::Refused { .. })
}
