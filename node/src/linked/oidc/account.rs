//! An account at a provider, once its user has logged in: its contacts, and a newer token now and then.

use std::time::{Duration, Instant};

use halloo_protocol::linked::{ListEntry, ProviderToken, nonce_for};
use serde::{Deserialize, Serialize};

use super::super::News;
use super::super::system::{LinkedError, LinkedSystem, NoPlace};
use super::contacts::{self, Read};
use super::{ClientId, Discovery, Provider};
use crate::config::ContactsConfig;

/// An access token that says nothing of its end is used for so long.
const ACCESS_SECS: u64 = 600;

/// A token is had anew so long before its end.
const ACCESS_SECS_SPARE: u64 = 30;

/// How often a newer ID token is asked for, where there are no contacts to ask for.
const IDLE: Duration = Duration::from_secs(6 * 3_600);

/// What is kept of an account, sealed.
#[derive(Clone, Serialize, Deserialize)]
pub(in super::super) struct OidcParams {
    pub(in super::super) issuer: String,
    pub(in super::super) client: ClientId,
    pub(in super::super) refresh_token: Option<String>,
    /// Of the proof.
    pub(in super::super) salt: [u8; 16],
}

impl std::fmt::Debug for OidcParams {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OidcParams").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

struct Access {
    token: zeroize::Zeroizing<String>,
    ends_at: Instant,
}

/// An account at a provider.
pub(in super::super) struct OidcAccount {
    provider: Provider,
    params: OidcParams,
    contacts: Option<ContactsConfig>,
    /// What the ID token has to have to be of this user.
    nonce: String,
    discovery: Option<Discovery>,
    access: Option<Access>,
    read: Read,
    read_at: Instant,
    news: Vec<News>,
}

impl OidcAccount {
    pub(in super::super) fn new(
        provider: Provider,
        params: OidcParams,
        contacts: Option<ContactsConfig>,
        user: &halloo_protocol::identity::UserId,
        identity: &halloo_protocol::key::IdentityKey,
    ) -> Self {
        let nonce = nonce_for(user, identity, &params.salt);
        Self {
            provider,
            params,
            contacts,
            nonce,
            discovery: None,
            access: None,
            read: Read::default(),
            read_at: Instant::now(),
            news: Vec::new(),
        }
    }

    fn pause(&self) -> Duration {
        self.contacts.as_ref().map_or(IDLE, ContactsConfig::poll)
    }

    /// Has the provider give new tokens for the refresh token (RFC 6749 section 6). A refresh token that it gives in its place is kept before anything else.
    async fn refresh(&mut self) -> Result<(), LinkedError> {
        let Some(refresh_token) = self.params.refresh_token.clone() else {
            return Err(LinkedError::Protocol("it gave nothing to stay logged in with: link it again"));
        };
        let Some(discovery) = &self.discovery else { return Err(LinkedError::Protocol("it isn't connected")) };
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.as_str())];
        let tokens = self.provider.tokens("to go on with the login", discovery, &self.params.client, &pairs).await?;
        let is_kept = |next: &String| *next != refresh_token && next.len() <= super::super::logins::REFRESH_TOKEN_BYTES_MAX;
        if let Some(next) = tokens.refresh_token.filter(is_kept) {
            self.params.refresh_token = Some(next);
            self.news.push(News::Secret(self.params.to_text()));
        }
        // Providers needn't give an ID token again, nor the nonce in it (Core 1.0 section 12.2).
        let token = tokens.id_token.and_then(|text| ProviderToken::of_jwt(&text, self.params.salt).ok());
        if let Some(token) = token.filter(|token| token.nonce().as_ref() == Some(&self.nonce)) {
            self.news.push(News::Renewed(token.to_bytes()));
        }
        let secs = tokens.expires_in.unwrap_or(ACCESS_SECS).saturating_sub(ACCESS_SECS_SPARE).min(86_400);
        self.access = Some(Access { token: tokens.access_token.into(), ends_at: Instant::now() + Duration::from_secs(secs) });
        Ok(())
    }

    async fn access(&mut self) -> Result<zeroize::Zeroizing<String>, LinkedError> {
        if self.access.as_ref().is_none_or(|access| access.ends_at <= Instant::now()) {
            self.refresh().await?;
        }
        let access = self.access.as_ref().ok_or(LinkedError::Protocol("it isn't connected"))?;
        Ok(access.token.clone())
    }

    /// Reads the contacts; gives what has changed.
    async fn read(&mut self) -> Result<Vec<ListEntry>, LinkedError> {
        self.read_at = Instant::now();
        let access = self.access().await?;
        let Some(config) = &self.contacts else { return Ok(Vec::new()) };
        let read = contacts::read(&self.provider.http, config, &self.params.issuer, &access, Some(&self.read)).await?;
        let Some(read) = read else { return Ok(Vec::new()) };
        let changes = contacts::changes(&self.read, &read);
        self.read = read;
        Ok(changes)
    }
}

impl OidcParams {
    /// As it is sealed.
    pub(in super::super) fn to_text(&self) -> String {
        // Strings and numbers alone: it can't fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(in super::super) fn of_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl LinkedSystem for OidcAccount {
    type Place = NoPlace;

    fn place(&mut self) -> Option<&mut NoPlace> {
        None
    }

    async fn login(&mut self) -> Result<(), LinkedError> {
        self.access = None;
        self.discovery = Some(self.provider.discover().await?);
        self.refresh().await
    }

    async fn contacts(&mut self) -> Result<Vec<ListEntry>, LinkedError> {
        self.read = Read::default();
        self.read().await?;
        Ok(self.read.entries())
    }

    async fn is_alive(&mut self) -> bool {
        true
    }

    async fn wait(&mut self) -> Result<(), LinkedError> {
        if self.news.is_empty() {
            tokio::time::sleep(self.pause().saturating_sub(self.read_at.elapsed())).await;
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<Vec<News>, LinkedError> {
        let changes = if self.read_at.elapsed() >= self.pause() { self.read().await? } else { Vec::new() };
        let mut news = std::mem::take(&mut self.news);
        news.extend(changes.into_iter().map(News::Changed));
        Ok(news)
    }

    fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    async fn end(&mut self) {}
}
