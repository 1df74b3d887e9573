//! `halloo authority`

use halloo_protocol::authority::InviteCode;

use super::error::CliError;
use super::output::{pairs, table, word};
use super::{Context, parse};
use crate::api::requests::{CertifyRequest, RevokeRequest};
use crate::handle::authority::{
    AuthorityCertified, AuthorityInvite, AuthorityLog, AuthorityRevocation, AuthorityStatus, EnrolmentPolicy, InviteOptions,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Name, root key and numbers
    Show,
    /// Make an invite code for one person
    Invite(InviteArgs),
    /// Revoke a user's certificate
    Revoke(RevokeArgs),
    /// Say that an identity in another system is a user's, as one who runs both knows: `halloo link certify` lets their certificate hint at it
    Certify(CertifyArgs),
    /// What this authority has done
    Log,
}

#[derive(Debug, clap::Args)]
pub(super) struct InviteArgs {
    /// The only name it can be used for
    #[arg(long, value_name = "NAME", value_parser = parse::user)]
    name: Option<String>,
    /// For how many hours it can be used [default: 168]
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..=8_784))]
    valid_hours: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// Whom to revoke
    #[arg(value_parser = parse::user)]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct CertifyArgs {
    /// Whose it is
    #[arg(value_parser = parse::user)]
    name: String,
    /// The identity: xmpp:alice@example.org
    #[arg(value_name = "ID", value_parser = parse::linked)]
    id: String,
    /// It isn't theirs any more: their next certificate doesn't hint at it
    #[arg(long)]
    remove: bool,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let client = context.client()?;
    let output = context.output;
    match command {
        Command::Show => output.print(&client.get::<AuthorityStatus>("/v1/authority").await?, status_for_people),
        Command::Invite(args) => {
            let valid_secs = args.valid_hours.map(|hours| u64::from(hours) * 3_600);
            let options = InviteOptions { name: args.name, valid_secs };
            let invite: AuthorityInvite = client.post("/v1/authority/invites", &options).await?;
            output.print(&invite, |invite| {
                let label = InviteCode::parse(&invite.code).map_or_else(|_| "AUTHORITY".to_owned(), |code| code.label);
                format!(
                    "{}\n\nFor one person, until {}: halloo enrol NAME@{label} --invite CODE\n",
                    invite.code, invite.expires_at
                )
            })
        }
        Command::Revoke(args) => {
            let request = RevokeRequest { username: args.name };
            let revoked: AuthorityRevocation = client.post("/v1/authority/revocations", &request).await?;
            output.print(&revoked, |r| format!("{} is revoked by list {}", r.username, r.revocation_number))
        }
        Command::Certify(args) => {
            let request = CertifyRequest { username: args.name, id: args.id, is_certified: !args.remove };
            let certified: AuthorityCertified = client.post("/v1/authority/certified", &request).await?;
            output.print(&certified, |c| match c.is_certified {
                true => format!(
                    "{} is {}'s; they may have their certificate hint at it: halloo link certify {}",
                    c.id, c.username, c.id
                ),
                false => format!("{} isn't {}'s any more; certificates that hint at it end within 90 days", c.id, c.username),
            })
        }
        Command::Log => output.print(&client.get::<AuthorityLog>("/v1/authority/log").await?, log_for_people),
    }
}

fn status_for_people(status: &AuthorityStatus) -> String {
    let enrolment = match status.enrolment {
        EnrolmentPolicy::Invite => "with an invite",
        EnrolmentPolicy::Open => "open to everybody",
    };
    pairs([
        ("name", Some(status.name.clone())),
        ("key", Some(status.key.clone())),
        ("enrolment", Some(enrolment.to_owned())),
        ("users", Some(status.users.to_string())),
        ("open invites", Some(status.open_invites.to_string())),
        ("revocation list", Some(status.revocation_number.to_string())),
    ])
}

fn log_for_people(log: &AuthorityLog) -> String {
    let rows = log.entries.iter().map(|entry| {
        let action = word(&entry.action);
        let username = entry.username.clone().unwrap_or_default();
        let serial = entry.serial.map(|serial| serial.to_string()).unwrap_or_default();
        [entry.number.to_string(), entry.at.to_string(), action, username, serial]
    });
    table(["NUMBER", "AT", "ACTION", "USER", "SERIAL"], rows)
}
