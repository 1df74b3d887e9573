//! Goal: mail is an event like others: whoever writes to a watched account is told of on the devices that the policy picks, once each, over lost connections and
//! restarts. Method: the mail comes from software that shares no code with Halloo: Python's smtplib, Debian's Dovecot and msmtp.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use halloo_tests::cli::Invocation;
use halloo_tests::linking::link;
use halloo_tests::network::text;
use halloo_tests::{Daemon, Plan, User, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(40);

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn mails(device: &Daemon) -> Vec<Value> {
    device.events().into_iter().filter(|event| event["event"] == "mail_received").collect()
}

#[track_caller]
fn told(device: &Daemon, subject: &str) -> Value {
    device.wait_event(PATIENCE, "mail_received", |event| event["subject"] == subject)
}

/// Sends mails by Python's smtplib. Gives what it printed: the answers.
fn by_smtplib(port: u16, class: &str, script: &str) -> String {
    let program = format!("import smtplib\nclient = smtplib.{class}('127.0.0.1', {port}, timeout=20)\n{script}\nclient.quit()\n");
    let output = Command::new("python3").args(["-c", &program]).output().expect("python3 runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

fn friendly(subject: &str) -> String {
    format!(
        "client.sendmail('carol@mail.example', ['bob@mail.example'], 'From: =?utf-8?q?Carol_M=C3=BCller?= <carol@mail.example>\\r\\n\
         Subject: {subject}\\r\\nMessage-ID: <{subject}@mail.example>\\r\\n\\r\\n.At noon?\\r\\nCarol\\r\\n')"
    )
}

#[test]
fn a_delivered_mail_is_told_on_the_device_that_the_policy_picks() {
    let port = free_port();
    let network = Plan::new(["bob"]).config("bob", &format!("[mail]\nlisten = \"127.0.0.1:{port}\"\n")).start();
    let bob = &network.users[0];
    let phone = link(&network, bob, "phone", &[]);
    eventually(PATIENCE, "the record has both devices", || {
        let found = bob.cli(["resolve", &bob.username, "--fresh"]);
        match found.json()["devices"].as_array().map(Vec::len) {
            Some(2) => Ok(()),
            _ => Err(format!("{found:?}")),
        }
    });
    // Nothing is set: everybody hears of it.
    by_smtplib(port, "SMTP", &friendly("lunch"));
    let (here, there) = (told(bob, "lunch"), told(&phone, "lunch"));
    assert_eq!((&here["from_name"], &here["from_address"]), (&json!("Carol Müller"), &json!("carol@mail.example")), "{here}");
    assert_eq!((&here["preview"], &here["account"]), (&json!(".At noon? Carol"), &json!("smtp")), "{here}");
    assert_eq!(here["mail_id"], there["mail_id"]);
    assert_eq!(text(&there["notice"], "spoken"), "Mail from Carol Müller");

    // A policy as for calls: the phone first.
    let rule = "version = 1\n[[rule]]\nwhen = { events = [\"mail\"], from = [\"carol@mail.example\"] }\ntargets = [\"device:phone\"]\nescalate_after = 3\n";
    set_policy(bob, &phone, rule);
    by_smtplib(port, "SMTP", &friendly("dinner"));
    told(&phone, "dinner");
    assert!(!mails(bob).iter().any(|mail| mail["subject"] == "dinner"), "its turn is later");
    told(bob, "dinner");
    // The same one again is no other, also by LMTP, which answers for each recipient.
    let twice = "print(client.lhlo() if hasattr(client, 'lhlo') else '')\n".to_owned() + &friendly("dinner");
    by_smtplib(port, "LMTP", &twice);
    // Whatever is said in the wrong order is refused, and does no harm.
    let refused =
        by_smtplib(port, "SMTP", "print(client.docmd('DATA'), client.docmd('RCPT TO:<a@b>'), client.docmd('EXPN all'))");
    assert!(refused.contains("503") && refused.contains("502"), "{refused}");
    by_smtplib(port, "SMTP", &friendly("last"));
    told(&phone, "last");
    told(bob, "last");
    for device in [&**bob, &phone] {
        let subjects: Vec<String> = mails(device).iter().map(|mail| text(mail, "subject")).collect();
        assert_eq!(subjects, ["lunch", "dinner", "last"]);
    }
}

/// Sets a policy on one device, and waits until the other has it.
fn set_policy(one: &Daemon, other: &Daemon, text: &str) {
    let file = one.home().join("policy.toml");
    std::fs::write(&file, text).expect("written");
    let set = one.cli(["push", "policy", "set", &file.display().to_string()]).ok();
    eventually(PATIENCE, "the other has it", || {
        let policy = other.cli(["push", "policy", "get"]).ok();
        if policy == set { Ok(()) } else { Err(policy.to_string()) }
    });
}

#[test]
fn a_sleeping_phone_is_woken_for_mail_if_it_is_its_turn_and_else_left_asleep() {
    let port = free_port();
    let network = Plan::new(["bob"]).config("bob", &format!("[mail]\nlisten = \"127.0.0.1:{port}\"\n")).start();
    let bob = &network.users[0];
    let phone = link(&network, bob, "phone", &[]);
    phone.cli(["push", "register", "webpush"]).ok();
    bob.cli(["device", "usage", "in-use"]).ok();
    set_policy(bob, &phone, "version = 1\n[[rule]]\ntargets = [\"in-use\"]\nescalate_after = 1\n");
    eventually(PATIENCE, "the record has both devices, and who wakes the phone", || {
        let found = bob.cli(["resolve", &bob.username, "--fresh"]).json().to_string();
        if found.matches("peer_id").count() >= 2 && found.contains(&phone.peer_id()) { Ok(()) } else { Err(found) }
    });
    assert_eq!(phone.cli(["suspend"]).ok()["suspended"], true);
    // Here first: the phone's turn passes, since this device has told of it.
    by_smtplib(port, "SMTP", &friendly("quiet"));
    told(bob, "quiet");
    set_policy_alone(
        bob,
        "version = 1\n[[rule]]\nwhen = { events = [\"mail\"] }\ntargets = [\"device:phone\"]\nescalate_after = 30\n",
    );
    by_smtplib(port, "SMTP", &friendly("loud"));
    let woken = phone.wait_event(PATIENCE, "woken", |_| true);
    assert_eq!(woken["by_push"], true, "{woken}");
    let loud = told(&phone, "loud");
    assert_eq!(text(&loud["notice"], "spoken"), "Mail from Carol Müller");
    assert!(!mails(bob).iter().any(|mail| mail["subject"] == "loud"), "its turn is later");
    // Awake, it hears of the other one too.
    told(&phone, "quiet");
    assert_eq!(phone.events().iter().filter(|event| event["event"] == "woken").count(), 1);
}

fn set_policy_alone(device: &Daemon, text: &str) {
    let file = device.home().join("policy.toml");
    std::fs::write(&file, text).expect("written");
    device.cli(["push", "policy", "set", &file.display().to_string()]).ok();
}

#[test]
fn what_cannot_be_watched_stops_the_start_and_names_why() {
    let folder = tempfile::tempdir().expect("a directory");
    let daemon = Daemon::init(folder.path(), "home", "lab = true\n");
    let config = |account: &str| {
        std::fs::write(daemon.home().join("config.toml"), format!("lab = true\n[[mail.account]]\nname = \"work\"\n{account}\n"))
            .expect("written");
        let output = Invocation::new(daemon.home()).args(["run"]).limit(PATIENCE).run();
        assert_ne!(output.code, 0, "{output:?}");
        output.stderr
    };
    let password = daemon.home().join("secret-of-work");
    let account = |more: &str| format!("user = \"bob\"\npassword_file = \"secret-of-work\"\n{more}");
    let said = config(&account("server = \"mail.example:143\"\ntls = false"));
    assert!(said.contains("in the open"), "{said}");
    let said = config(&account("server = \"mail.example:993\""));
    assert!(said.contains("password_file"), "{said}");
    let said = config(&account("server = \"localhost:143\"\ntls = false\nstarttls = true"));
    assert!(said.contains("starttls") || said.contains("password_file"), "{said}");
    let listen = |lines: &str| {
        std::fs::write(daemon.home().join("config.toml"), format!("lab = true\n[mail]\n{lines}\n")).expect("written");
        Invocation::new(daemon.home()).args(["run"]).limit(PATIENCE).run()
    };
    let open = listen("listen = \"0.0.0.0:2525\"");
    assert_ne!(open.code, 0, "{open:?}");
    assert!(open.stderr.contains("mail.listen_to_others"), "{open:?}");
    std::fs::write(&password, "opensesame\n").expect("written");
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("set");
    let said = config(&account("server = \"mail.example:993\""));
    assert!(said.contains("chmod 600") && !said.contains("opensesame"), "{said}");
}

/// Debian's Dovecot on a free port, with one user, until it is dropped.
struct Dovecot {
    folder: PathBuf,
    port: u16,
    tls_port: u16,
    process: Option<Child>,
}

impl Dovecot {
    fn start(folder: &Path) -> Self {
        let folder = folder.join("dovecot");
        std::fs::create_dir_all(folder.join("run")).expect("made");
        let mut dovecot = Self { folder, port: free_port(), tls_port: free_port(), process: None };
        dovecot.make_certificates();
        let (path, port, tls_port) = (dovecot.folder.display().to_string(), dovecot.port, dovecot.tls_port);
        std::fs::write(dovecot.folder.join("users"), "bob:{PLAIN}opensesame:::::\n").expect("written");
        let config = format!(
            "base_dir = {path}/run\nstate_dir = {path}/run\nlog_path = {path}/log\nprotocols = imap\nlisten = 127.0.0.1\nssl = yes\nssl_cert = <{path}/server.pem\nssl_key = <{path}/server.key\n\
             disable_plaintext_auth = no\nmail_location = maildir:{path}/mail\nmail_uid = mail\nmail_gid = mail\nfirst_valid_uid = 1\n\
             service imap-login {{\n  inet_listener imap {{\n    port = {port}\n  }}\n  inet_listener imaps {{\n    port = {tls_port}\n    ssl = yes\n  }}\n}}\n\
             passdb {{\n  driver = passwd-file\n  args = {path}/users\n}}\nuserdb {{\n  driver = static\n  args = uid=mail gid=mail home={path}/home\n}}\n"
        );
        std::fs::write(dovecot.folder.join("dovecot.conf"), config).expect("written");
        for command in [["chown", "-R", "mail:mail"], ["chmod", "-R", "a+rX"]] {
            let done = Command::new(command[0]).args(&command[1..]).arg(&dovecot.folder).status().expect("runs");
            assert!(done.success());
        }
        dovecot.run();
        dovecot
    }

    /// A certificate for `localhost`, of an authority nobody knows; its certificate is in `ca.pem`.
    fn make_certificates(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        for (name, text) in [("ca.pem", &certificate), ("server.pem", &certificate), ("server.key", &key)] {
            std::fs::write(self.folder.join(name), text).expect("written");
        }
    }

    fn run(&mut self) {
        let config = self.folder.join("dovecot.conf");
        let process = Command::new("dovecot").arg("-F").arg("-c").arg(config).stderr(Stdio::null()).spawn();
        self.process = Some(process.expect("dovecot runs: scripts/setup --long"));
        let port = self.port;
        eventually(PATIENCE, "it listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())
        });
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _asked = Command::new("kill").arg(process.id().to_string()).status();
            let _ended = process.wait();
        }
    }

    /// What Python's imaplib does there.
    fn imap(&self, script: &str) -> String {
        let program = format!(
            "import imaplib, time\nc = imaplib.IMAP4('127.0.0.1', {})\nc.login('bob', 'opensesame')\n{script}\nc.logout()\n",
            self.port
        );
        let output = Command::new("python3").args(["-c", &program]).output().expect("python3 runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        printed
    }

    fn put(&self, subject: &str) {
        self.imap(&format!(
            "print(c.append('INBOX', '', None, b'From: Carol <carol@mail.example>\\r\\nSubject: {subject}\\r\\nMessage-ID: <{subject}@mail.example>\\r\\n\\r\\nHello.\\r\\n'))"
        ));
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
#[ignore = "long: Dovecot and msmtp"]
fn an_imap_account_is_watched_over_restarts_and_a_new_folder() {
    let scratch = tempfile::Builder::new().prefix("halloo-mail-").tempdir().expect("a directory");
    std::fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let mut dovecot = Dovecot::start(scratch.path());
    dovecot.put("old");
    let smtp = free_port();
    let secret = scratch.path().join("password");
    std::fs::write(&secret, "opensesame\n").expect("written");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    let config = format!(
        "[mail]\nlisten = \"127.0.0.1:{smtp}\"\n[[mail.account]]\nname = \"work\"\nserver = \"127.0.0.1:{}\"\ntls = false\nuser = \"bob\"\npassword_file = \"{}\"\n",
        dovecot.port,
        secret.display()
    );
    let mut network = Plan::new(["bob"]).config("bob", &config).start();
    let bob: &mut User = &mut network.users[0];
    eventually(PATIENCE, "the folder is watched", || {
        if bob.logged("a mail folder is watched") > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    // IDLE: at once, not at the next question.
    let begun = std::time::Instant::now();
    dovecot.put("first");
    let first = told(bob, "first");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!((&first["account"], &first["from_address"]), (&json!("work"), &json!("carol@mail.example")), "{first}");
    assert!(
        !dovecot.imap("c.select('INBOX', readonly=True)\nprint(c.search(None, 'SEEN'))").contains("b'2"),
        "it isn't marked as read"
    );

    // The server is away for a moment.
    dovecot.stop();
    dovecot.run();
    dovecot.put("second");
    told(bob, "second");
    // The node is killed; what came meanwhile is told, and nothing twice.
    bob.kill();
    dovecot.put("third");
    bob.restart();
    told(bob, "third");
    // The folder is made anew: other numbers, and what lies in it is no news.
    let maildir = dovecot.folder.join("mail");
    let before = bob.logged("a mail folder is watched");
    dovecot.stop();
    std::fs::remove_dir_all(&maildir).expect("removed");
    dovecot.run();
    eventually(PATIENCE, "it has noticed", || {
        if bob.logged("a mail folder is watched") > before { Ok(()) } else { Err("not yet".to_owned()) }
    });
    dovecot.put("fourth");
    told(bob, "fourth");
    let subjects: Vec<String> = mails(bob).iter().map(|mail| text(mail, "subject")).collect();
    assert!(!subjects.iter().any(|subject| ["old", "first"].contains(&subject.as_str())), "{subjects:?}");

    // Debian's msmtp delivers.
    let mail = scratch.path().join("mail.txt");
    std::fs::write(&mail, "From: carol@mail.example\r\nTo: bob@mail.example\r\nSubject: by msmtp\r\n\r\nHello.\r\n")
        .expect("written");
    let sent = Command::new("msmtp")
        .args([
            "--host=127.0.0.1",
            &format!("--port={smtp}"),
            "--from=carol@mail.example",
            "--auth=off",
            "--tls=off",
            "bob@mail.example",
        ])
        .stdin(std::fs::File::open(&mail).expect("there"))
        .status()
        .expect("msmtp runs: scripts/setup --long");
    assert!(sent.success());
    told(bob, "by msmtp");
}

/// A watched account with `lines` in its configuration.
fn account(name: &str, lines: &str, secret: &Path) -> String {
    let secret = secret.display();
    format!("[[mail.account]]\nname = \"{name}\"\nuser = \"bob\"\npassword_file = \"{secret}\"\n{lines}\n")
}

fn secret_in(folder: &Path) -> PathBuf {
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let secret = folder.join("password");
    std::fs::write(&secret, "opensesame\n").expect("written");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    secret
}

#[test]
#[ignore = "long: Dovecot"]
fn a_mail_server_shows_a_certificate_that_is_trusted_or_isnt_told_the_password() {
    let scratch = tempfile::Builder::new().prefix("halloo-mail-").tempdir().expect("a directory");
    let secret = secret_in(scratch.path());
    let dovecot = Dovecot::start(scratch.path());
    let (ca, port, tls_port) = (dovecot.folder.join("ca.pem"), dovecot.port, dovecot.tls_port);
    let roots = format!("roots = \"{}\"", ca.display());
    let config = [
        account("under-tls", &format!("server = \"localhost:{tls_port}\"\n{roots}"), &secret),
        account("starttls", &format!("server = \"localhost:{port}\"\nstarttls = true\n{roots}"), &secret),
        account("unknown", &format!("server = \"localhost:{tls_port}\""), &secret),
        account("other-name", &format!("server = \"127.0.0.1:{port}\"\nstarttls = true\n{roots}"), &secret),
    ];
    let network = Plan::new(["bob"]).config("bob", &config.concat()).start();
    let bob = &network.users[0];
    eventually(PATIENCE, "both are watched", || {
        let watched = bob.logged("a mail folder is watched");
        if watched == 2 { Ok(()) } else { Err(watched.to_string()) }
    });
    dovecot.put("sealed");
    for name in ["under-tls", "starttls"] {
        bob.wait_event(PATIENCE, "mail_received", |event| event["account"] == name && event["subject"] == "sealed");
    }
    for name in ["unknown", "other-name"] {
        let told = bob.wait_event(PATIENCE, "warning", |event| {
            event["code"] == "mail-account" && event["detail"].as_str().is_some_and(|detail| detail.contains(name))
        });
        assert!(text(&told, "detail").contains("certificate"), "{told}");
    }
    // Who wasn't trusted has heard no password: each login is in Dovecot's log.
    let log = std::fs::read_to_string(dovecot.folder.join("log")).expect("a log");
    let logins = log.lines().filter(|line| line.contains("imap-login: Info: Login: ") && line.contains("TLS")).count();
    assert_eq!(logins, 2, "{log}");
}

#[test]
#[ignore = "long: Dovecot"]
fn a_mail_that_was_read_is_taken_back_on_every_device_and_not_told_where_its_turn_was_later() {
    let scratch = tempfile::Builder::new().prefix("halloo-mail-").tempdir().expect("a directory");
    let secret = secret_in(scratch.path());
    let dovecot = Dovecot::start(scratch.path());
    let lines = format!("server = \"localhost:{}\"\nroots = \"{}\"", dovecot.tls_port, dovecot.folder.join("ca.pem").display());
    let mut network = Plan::new(["bob"]).config("bob", &account("work", &lines, &secret)).start();
    let phone = link(&network, &network.users[0], "phone", &[]);
    let bob = &mut network.users[0];
    eventually(PATIENCE, "the folder is watched", || {
        if bob.logged("a mail folder is watched") > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    eventually(PATIENCE, "the record has both devices", || {
        let found = bob.cli(["resolve", &bob.username, "--fresh"]);
        if found.json()["devices"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let read = |number: u32| dovecot.imap(&format!("c.select('INBOX')\nc.store('{number}', '+FLAGS', '(\\\\Seen)')"));
    let taken_back = |device: &Daemon, mail: &Value| {
        device.wait_event(PATIENCE, "mail_read", |event| event["mail_id"] == mail["mail_id"]);
    };
    dovecot.put("first");
    let first = told(bob, "first");
    told(&phone, "first");
    read(1);
    taken_back(bob, &first);
    taken_back(&phone, &first);

    // The phone first: this device's turn would come, and doesn't, since it is read by then; a restart between makes no difference.
    set_policy(
        bob,
        &phone,
        "version = 1\n[[rule]]\nwhen = { events = [\"mail\"] }\ntargets = [\"device:phone\"]\nescalate_after = 25\n",
    );
    dovecot.put("second");
    let second = told(&phone, "second");
    dovecot.put("third");
    told(&phone, "third");
    bob.kill();
    read(2);
    bob.restart();
    taken_back(&phone, &second);
    let third = told(bob, "third");
    assert!(!mails(bob).iter().any(|mail| mail["subject"] == "second"), "it was read before its turn");
    // Deleted is as good as read.
    dovecot.imap("c.select('INBOX')\nc.store('3', '+FLAGS', '(\\\\Deleted)')\nc.expunge()");
    taken_back(bob, &third);
    taken_back(&phone, &third);
}
