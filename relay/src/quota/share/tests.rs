//! Rates, fair shares and counts, in virtual time.

use super::*;

const STEP: Duration = Duration::from_millis(1);

/// No limits but those a test sets.
fn unlimited() -> Limits {
    Limits {
        allocations_max: 1_000,
        allocations_per_user_max: 1_000,
        allocations_per_address_max: 1_000,
        user_bytes_per_sec: 0,
        user_packets_per_sec: 0,
        address_bytes_per_sec: 0,
        address_packets_per_sec: 0,
        total_bytes_per_sec: 0,
        total_packets_per_sec: 0,
        ..Limits::default()
    }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

/// Sends packets of one allocation at an even rate.
struct Sender {
    user: UserId,
    address: IpAddr,
    lease: Lease,
    bytes: usize,
    per_sec: f64,
    owed: f64,
    sent: u64,
    passed: u64,
    refusals: Vec<DropReason>,
}

impl Sender {
    fn new(shares: &Shares, name: &str, class: ServiceClass, address: u8, bytes: usize, per_sec: f64, now: Moment) -> Self {
        let address = ip(address);
        let user = shares.admit(name, class, address, now).unwrap();
        Self { user, address, lease: Lease::default(), bytes, per_sec, owed: 0.0, sent: 0, passed: 0, refusals: Vec::new() }
    }

    fn step(&mut self, shares: &Shares, now: Moment) {
        self.owed += self.per_sec * STEP.as_secs_f64();
        while self.owed >= 1.0 {
            self.owed -= 1.0;
            self.sent += 1;
            let paid = self.lease.pay(self.bytes);
            let paid = paid
                .then_some(())
                .ok_or(())
                .or_else(|()| shares.pay_anew(self.user, self.address, &mut self.lease, self.bytes, now));
            match paid {
                Ok(()) => self.passed += 1,
                Err(reason) if !self.refusals.contains(&reason) => self.refusals.push(reason),
                Err(_) => {}
            }
        }
    }

    fn loss(&self) -> f64 {
        1.0 - self.passed as f64 / self.sent as f64
    }

    fn bytes_passed(&self) -> f64 {
        (self.passed * self.bytes as u64) as f64
    }
}

fn run(shares: &Shares, senders: &mut [Sender], start: Moment, length: Duration) -> Moment {
    let steps = length.as_millis() as u32;
    for step in 0..steps {
        let now = start.after(STEP * step);
        senders.iter_mut().for_each(|sender| sender.step(shares, now));
    }
    start.after(length)
}

#[test]
fn a_users_rates_hold_over_all_its_allocations() {
    for (limits, reason, most) in [
        (Limits { user_bytes_per_sec: 100_000, ..unlimited() }, DropReason::UserBandwidth, 100_000.0),
        (Limits { user_packets_per_sec: 100, ..unlimited() }, DropReason::UserPackets, 100_000.0),
        (Limits { address_bytes_per_sec: 100_000, ..unlimited() }, DropReason::AddressBandwidth, 100_000.0),
        (Limits { address_packets_per_sec: 100, ..unlimited() }, DropReason::AddressPackets, 100_000.0),
    ] {
        let (shares, start) = (Shares::new(limits), Moment::default());
        let sender = || Sender::new(&shares, "ann", ServiceClass::Normal, 1, 1_000, 200.0, start);
        let mut senders = [sender(), sender()];
        run(&shares, &mut senders, start, Duration::from_secs(10));
        let passed: f64 = senders.iter().map(Sender::bytes_passed).sum();
        // Ten seconds of the rate and the burst there was at first.
        assert!((10.0 * most..=11.0 * most + 8_000.0).contains(&passed), "{reason:?}: {passed}");
        assert!(senders.iter().all(|sender| sender.refusals == [reason]), "{:?}", senders[0].refusals);
        // What was refused is told by its quota, but for what the leases in use have still to report.
        let refused: u64 = senders.iter().map(|sender| sender.sent - sender.passed).sum();
        let usage = shares.usage().remove(0).1;
        let told: Vec<_> = usage.dropped().filter(|(_, packets)| *packets > 0).collect();
        assert!(
            matches!(told[..], [(told, packets)] if told == reason && (refused - 10..=refused).contains(&packets)),
            "{told:?}"
        );
    }
}

#[test]
fn what_is_within_the_rate_is_not_touched() {
    let (shares, start) = (Shares::new(Limits::default()), Moment::default());
    let mut senders = [Sender::new(&shares, "ann", ServiceClass::Normal, 1, 1_200, 500.0, start)];
    run(&shares, &mut senders, start, Duration::from_secs(10));
    assert_eq!(senders[0].passed, senders[0].sent);
}

/// The requirement's case: figures are printed.
#[test]
fn one_greedy_user_does_not_starve_ten_modest_ones() {
    const TOTAL: u64 = 200_000;
    for (limits, kind) in [
        (Limits { total_bytes_per_sec: TOTAL, ..unlimited() }, "bytes"),
        (Limits { total_packets_per_sec: TOTAL / 160, ..unlimited() }, "packets"),
    ] {
        let (shares, start) = (Shares::new(limits), Moment::default());
        let mut senders: Vec<_> = (0..10)
            .map(|number| Sender::new(&shares, &format!("modest {number}"), ServiceClass::Normal, number, 160, 50.0, start))
            .collect();
        // Ten times what there is in all, over five allocations.
        for _ in 0..5 {
            senders.push(Sender::new(&shares, "greedy", ServiceClass::Normal, 99, 160, 2_500.0, start));
        }
        run(&shares, &mut senders, start, Duration::from_secs(20));
        let worst = senders[..10].iter().map(Sender::loss).fold(0.0, f64::max);
        let greedy: f64 = senders[10..].iter().map(Sender::bytes_passed).sum::<f64>() / 20.0;
        let total: f64 = senders.iter().map(Sender::bytes_passed).sum::<f64>() / 20.0;
        eprintln!(
            "{kind}: of {TOTAL} bytes a second ten modest users of 8000 lost {:.2} % at worst, one greedy of 2000000 got {greedy:.0}, all together {total:.0}",
            100.0 * worst
        );
        assert!(worst < 0.01, "{kind}: a modest user lost {worst}");
        assert!(total <= TOTAL as f64 * 1.03, "{kind}: {total} in all");
        assert!(greedy > 110_000.0, "{kind}: the rest was left unused, {greedy}");
    }
}

#[test]
fn equal_demands_get_equal_shares() {
    let (shares, start) = (Shares::new(Limits { total_bytes_per_sec: 400_000, ..unlimited() }), Moment::default());
    let mut senders: Vec<_> = (0..4)
        .map(|number| Sender::new(&shares, &format!("user {number}"), ServiceClass::Normal, number, 1_000, 400.0, start))
        .collect();
    run(&shares, &mut senders, start, Duration::from_secs(10));
    for sender in &senders {
        let rate = sender.bytes_passed() / 10.0;
        assert!((85_000.0..115_000.0).contains(&rate), "{rate}");
        assert_eq!(sender.refusals, [DropReason::TotalBandwidth]);
    }
}

/// What users of these classes get of 100 kB/s, in kB/s, when each wants so many.
fn rates_by_class(wishes: &[(ServiceClass, f64)]) -> Vec<f64> {
    let (shares, start) = (Shares::new(Limits { total_bytes_per_sec: 100_000, ..unlimited() }), Moment::default());
    let sender =
        |(class, wish): &(ServiceClass, f64)| Sender::new(&shares, &format!("{class:?}"), *class, 1, 250, 4.0 * wish, start);
    let mut senders: Vec<_> = wishes.iter().map(sender).collect();
    let warm = run(&shares, &mut senders, start, Duration::from_secs(2));
    senders.iter_mut().for_each(|sender| (sender.sent, sender.passed) = (0, 0));
    run(&shares, &mut senders, warm, Duration::from_secs(10));
    let rates: Vec<f64> = senders.iter().map(|sender| sender.bytes_passed() / 10_000.0).collect();
    eprintln!("of 100 kB/s, those who wanted {wishes:?} got {rates:.1?}");
    rates
}

#[test]
fn classes_are_served_in_their_order() {
    let rates = rates_by_class(&[(ServiceClass::First, 60.0), (ServiceClass::Normal, 60.0), (ServiceClass::Last, 60.0)]);
    assert!(rates[0] > 59.0 && (31.0..41.0).contains(&rates[1]) && (2.0..8.0).contains(&rates[2]), "{rates:?}");
}

#[test]
fn no_class_starves() {
    let rates = rates_by_class(&[(ServiceClass::First, 500.0), (ServiceClass::Last, 500.0)]);
    assert!((85.0..95.0).contains(&rates[0]) && (6.0..15.0).contains(&rates[1]), "{rates:?}");
    let rates = rates_by_class(&[(ServiceClass::Normal, 500.0), (ServiceClass::Last, 5.0)]);
    assert!(rates[1] > 4.0, "a demand below the part that is left is met: {rates:?}");
    let rates = rates_by_class(&[(ServiceClass::First, 500.0), (ServiceClass::Normal, 500.0), (ServiceClass::Last, 500.0)]);
    assert!(rates[0] > 80.0 && rates[1] > rates[2] && rates[2] > 0.5, "{rates:?}");
}

#[test]
fn what_later_classes_do_not_want_goes_to_the_first() {
    let rates = rates_by_class(&[(ServiceClass::First, 500.0), (ServiceClass::Last, 1.0)]);
    assert!(rates[0] > 95.0, "{rates:?}");
}

#[test]
fn allocations_are_counted_for_users_addresses_and_all() {
    let limits = Limits { allocations_max: 4, allocations_per_user_max: 2, allocations_per_address_max: 3, ..unlimited() };
    let (shares, now) = (Shares::new(limits), Moment::default());
    let admit = |name: &str, address: u8| shares.admit(name, ServiceClass::Normal, ip(address), now);
    let first = admit("ann", 1).unwrap();
    admit("ann", 1).unwrap();
    assert_eq!(admit("ann", 1), Err(AdmissionRefusal::User));
    admit("bob", 1).unwrap();
    assert_eq!(admit("cid", 1), Err(AdmissionRefusal::Address));
    admit("cid", 2).unwrap();
    assert_eq!(admit("dan", 3), Err(AdmissionRefusal::Total));
    shares.dismiss(first, ip(1), Lease::default());
    admit("dan", 3).unwrap();
}

#[test]
fn usage_is_counted_and_outlasts_the_allocation() {
    let (shares, now) = (Shares::new(unlimited()), Moment::default());
    let mut sender = Sender::new(&shares, "ann", ServiceClass::Normal, 1, 100, 1_000.0, now);
    for step in 0..1_000 {
        sender.step(&shares, now.after(STEP * step));
    }
    shares.dismiss(sender.user, sender.address, sender.lease);
    let usage = Usage { bytes: sender.passed * 100, packets: sender.passed, ..Usage::default() };
    assert_eq!(shares.usage(), [("ann".into(), usage)]);
    assert!(sender.passed >= 999);
}

#[test]
fn users_who_left_are_remembered_up_to_a_number() {
    let (shares, now) = (Shares::new(unlimited()), Moment::default());
    for number in 0..USERS_REMEMBERED_MAX + 100 {
        let user = shares.admit(&format!("user {number}"), ServiceClass::Normal, ip(1), now).unwrap();
        shares.dismiss(user, ip(1), Lease::default());
    }
    assert_eq!(shares.usage().len(), USERS_REMEMBERED_MAX);
    let accounts = shares.lock();
    assert_eq!((accounts.by_name.len(), accounts.by_address.len()), (USERS_REMEMBERED_MAX, 0));
}

#[test]
fn leaving_and_coming_back_earns_nothing() {
    let (shares, start) = (Shares::new(Limits { user_bytes_per_sec: 10_000, ..unlimited() }), Moment::default());
    let mut passed = 0.0;
    for _ in 0..20 {
        let mut sender = [Sender::new(&shares, "ann", ServiceClass::Normal, 1, 500, 1_000.0, start)];
        run(&shares, &mut sender, start, Duration::from_millis(100));
        shares.dismiss(sender[0].user, sender[0].address, sender[0].lease);
        passed += sender[0].bytes_passed();
    }
    assert!(passed <= 12_500.0, "{passed}");
}

#[test]
fn many_quiet_allocations_of_one_user_hold_nothing_back() {
    let totals = Limits::default();
    let limits = Limits {
        total_bytes_per_sec: totals.total_bytes_per_sec,
        total_packets_per_sec: totals.total_packets_per_sec,
        ..unlimited()
    };
    let (shares, start) = (Shares::new(limits), Moment::default());
    let mut senders: Vec<_> =
        (0..500).map(|number| Sender::new(&shares, "ann", ServiceClass::Normal, number as u8, 160, 10.0, start)).collect();
    run(&shares, &mut senders, start, Duration::from_secs(5));
    assert!(senders.iter().all(|sender| sender.refusals.is_empty() && sender.sent >= 49));
}

#[test]
fn a_busy_allocation_asks_rarely() {
    let (shares, start) = (Shares::new(Limits { total_bytes_per_sec: 100_000_000, ..unlimited() }), Moment::default());
    let mut senders = [Sender::new(&shares, "ann", ServiceClass::Normal, 1, 160, 20_000.0, start)];
    run(&shares, &mut senders, start, Duration::from_secs(1));
    assert_eq!(senders[0].lease.doublings, LEASE_DOUBLINGS_MAX);
}
