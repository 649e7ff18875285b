//! The reader on a disk in memory, against a map.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::spool::disk::memory::{Fault, MemoryDisk};
use crate::spool::{Damage, Frame, LogKind, Options, Replay};
use crate::suppression::Reason;

const DIR: &str = "/data";

struct Nothing;

impl Replay for Nothing {
    fn record(&mut self, _: LogKind, _: u64, _: &Frame<'_>) {}

    fn damage(&mut self, _: LogKind, damage: &Damage) {
        panic!("{damage:?}");
    }
}

struct World {
    disk: MemoryDisk,
    spool: Arc<Spool>,
    suppressions: Arc<Suppressions>,
}

fn open(disk: &MemoryDisk, key: [u8; 16], hashed: bool) -> World {
    let clock = Clock::start();
    let mut options = Options::new(PathBuf::from(DIR));
    options.mail_segment = 1 << 20;
    options.event_segment = 256 << 10;
    options.reserve = 0;
    options.refuse_below = 0;
    options.warn_below = 0;
    let spool = Spool::open(Arc::new(disk.clone()), options, clock, &mut Nothing);
    let spool = Arc::new(spool.unwrap());
    let set = Arc::new(suppression::Set::new(TagKey::new(key)));
    let suppressions = Suppressions::open(Arc::clone(&spool), set, hashed, clock).unwrap();
    World {
        disk: disk.clone(),
        spool,
        suppressions,
    }
}

impl Suppressions {
    /// Of a node that has no disk, for the tests of others.
    pub(crate) fn in_memory() -> Arc<Self> {
        World::new().suppressions
    }

    pub(crate) fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// From now on nothing can be written down.
    pub(crate) fn stop_log(&self) {
        self.spool.close().unwrap();
    }
}

impl World {
    fn new() -> Self {
        open(&MemoryDisk::new(), [7; 16], false)
    }

    /// Another life on the same disk.
    fn again(self, key: [u8; 16], hashed: bool) -> Self {
        self.spool.close().unwrap();
        open(&self.disk, key, hashed)
    }

    fn listed(&self, list: Option<List>, filter: Filter) -> Vec<Listed> {
        let mut found = Vec::new();
        let listing = self.suppressions.list(list, filter).unwrap();
        listing
            .run(&mut |listed| {
                found.push(listed);
                true
            })
            .unwrap();
        found
    }

    async fn suppress(&self, place: &Place, address: &str, suppression: Suppression) -> Made {
        let new = New {
            address: Address::parse(address).unwrap(),
            suppression,
            since: None,
        };
        let made = self
            .suppressions
            .suppress(place.clone(), vec![new], Evidence::default());
        made.await.unwrap()[0]
    }

    async fn lift(&self, place: &Place, address: &str, by: Origin) -> Made {
        let address = Address::parse(address).unwrap();
        let made = self.suppressions.lift(place.clone(), vec![address], by);
        made.await.unwrap()[0]
    }
}

fn place(server: u32, stream: &str) -> Place {
    Place {
        list: List {
            server,
            stream: stream.into(),
        },
        server: "app".into(),
    }
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text, true).unwrap()
}

type Model = BTreeMap<(List, String), Suppression>;

fn agree(world: &World, model: &Model, hashed: bool, seed: u64) {
    let listed = world.listed(None, Filter::default());
    assert_eq!(listed.len(), model.len(), "seed {seed}");
    assert_eq!(world.suppressions.count(), model.len(), "seed {seed}");
    for ((list, address), suppression) in model {
        let address = mailbox(address);
        let set = world.suppressions.set();
        let known = set.of(list.server, &list.stream, &address);
        assert_eq!(known, Some(*suppression), "seed {seed}");
        let listing = world
            .suppressions
            .list(Some(list.clone()), Filter::default());
        let found = listing.unwrap().find(&address).unwrap();
        let found = found.unwrap_or_else(|| panic!("seed {seed}: {address} is not found"));
        assert_eq!(found.kept.suppression, *suppression, "seed {seed}");
        assert!(listed.contains(&found), "seed {seed}");
        match &found.kept.address {
            None => assert!(hashed, "seed {seed}"),
            Some(kept) => {
                assert!(!hashed && kept.eq_ignore_ascii_case(address.as_str()));
            }
        }
    }
}

#[tokio::test]
async fn what_is_rebuilt_is_what_was_there_and_both_are_what_a_map_says() {
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let places = [place(1, "outbound"), place(1, "news"), place(2, "outbound")];
        let hashed = seed % 3 == 0;
        let mut world = open(&MemoryDisk::new(), [7; 16], hashed);
        let mut model = Model::new();
        for _ in 0..60 {
            let place = rng.choice(&places).unwrap();
            let address = format!("user{}@example.com", rng.u8(0..12));
            let spelled = match rng.bool() {
                true => address.to_uppercase(),
                false => address.clone(),
            };
            let key = (place.list.clone(), address);
            let there = model.get(&key).copied();
            match rng.u8(0..10) {
                0..5 => {
                    let suppression = Suppression {
                        reason: rng.choice(Reason::ALL).unwrap(),
                        origin: rng.choice(Origin::ALL).unwrap(),
                    };
                    let made = world.suppress(place, &spelled, suppression).await;
                    match there {
                        Some(old) if !old.yields_to(suppression) => {
                            assert_eq!(made, Made::Kept(old));
                        }
                        _ => {
                            assert_eq!(made, Made::Suppressed);
                            model.insert(key, suppression);
                        }
                    }
                }
                5..8 => {
                    let by = rng.choice([Origin::Customer, Origin::Admin]).unwrap();
                    let made = world.lift(place, &spelled, by).await;
                    match there {
                        None => assert_eq!(made, Made::NotSuppressed),
                        Some(old) if by == Origin::Customer && !old.is_the_customers() => {
                            assert_eq!(made, Made::NotAllowed(old));
                        }
                        Some(_) => {
                            assert_eq!(made, Made::Lifted);
                            model.remove(&key);
                        }
                    }
                }
                8 => world.suppressions.write_base().await.unwrap(),
                _ => world = world.again([7; 16], hashed),
            }
            agree(&world, &model, hashed, seed);
        }
        agree(&world.again([7; 16], hashed), &model, hashed, seed);
    }
}

/// Two of one batch are judged one after the other, and what the batch says first counts.
#[tokio::test]
async fn a_batch_is_judged_as_if_it_came_one_by_one() {
    let world = World::new();
    let complaint = Suppression {
        reason: Reason::SpamComplaint,
        origin: Origin::Recipient,
    };
    let new = |address: &str, suppression| New {
        address: Address::parse(address).unwrap(),
        suppression,
        since: Some(1_772_460_912_000),
    };
    let place = place(1, "outbound");
    let news = vec![
        new("ada@example.com", complaint),
        new("ADA@example.com", Suppression::BY_CUSTOMER),
        new("bo@example.com", Suppression::BY_CUSTOMER),
    ];
    let made = world
        .suppressions
        .suppress(place.clone(), news, Evidence::default());
    assert_eq!(
        made.await.unwrap(),
        [Made::Suppressed, Made::Kept(complaint), Made::Suppressed]
    );
    let filter = Filter {
        reason: Some(Reason::SpamComplaint),
        ..Filter::default()
    };
    let listed = world.listed(Some(place.list.clone()), filter);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].kept.since, 1_772_460_912_000);
    let before = Filter {
        to: Some(1_772_460_912_000),
        ..Filter::default()
    };
    assert_eq!(world.listed(None, before), []);
    let from = Filter {
        from: Some(1_772_460_912_000),
        ..Filter::default()
    };
    assert_eq!(world.listed(None, from).len(), 2);
}

#[tokio::test]
async fn a_listing_shows_what_was_there_when_it_began() {
    let world = World::new();
    let place = place(1, "outbound");
    for number in 0..200 {
        let address = format!("user{number}@example.com");
        world
            .suppress(&place, &address, Suppression::BY_CUSTOMER)
            .await;
    }
    let listing = world.suppressions.list(None, Filter::default()).unwrap();
    for number in 0..100 {
        let address = format!("user{number}@example.com");
        world.lift(&place, &address, Origin::Customer).await;
    }
    world.suppressions.write_base().await.unwrap();
    let mut count = 0;
    let counted = listing.run(&mut |_| {
        count += 1;
        true
    });
    counted.unwrap();
    assert_eq!(
        (count, world.listed(None, Filter::default()).len()),
        (200, 100)
    );
    let many: Vec<_> = (0..limits::SUPPRESSION_DUMPS)
        .map(|_| world.suppressions.list(None, Filter::default()).unwrap())
        .collect();
    let one_more = world.suppressions.list(None, Filter::default());
    assert_eq!(one_more.err(), Some(Trouble::Busy));
    drop(many);
}

#[tokio::test]
async fn a_damaged_base_is_put_aside_and_the_log_says_what_it_said() {
    let world = World::new();
    let place = place(1, "outbound");
    world
        .suppress(&place, "ada@example.com", Suppression::BY_CUSTOMER)
        .await;
    world.suppressions.write_base().await.unwrap();
    world.spool.close().unwrap();
    let readers = PathBuf::from(DIR).join("spool/readers");
    world
        .disk
        .edit(&readers.join("suppressions.base"), |bytes| bytes[70] ^= 1);
    let world = open(&world.disk, [7; 16], false);
    let ada = mailbox("ada@example.com");
    assert!(world.suppressions.set().of(1, "outbound", &ada).is_some());
    let files = world.disk.files();
    assert!(files.contains_key(&readers.join("suppressions.damaged")));
    world.suppressions.keep_up().await;
    let world = world.again([7; 16], false);
    assert_eq!(world.suppressions.count(), 1);
}

#[tokio::test]
async fn another_node_key_loses_hashes_and_no_addresses() {
    let world = World::new();
    let place = place(1, "outbound");
    for number in 0..50 {
        let address = format!("user{number}@example.com");
        world
            .suppress(&place, &address, Suppression::BY_CUSTOMER)
            .await;
    }
    world.suppressions.write_base().await.unwrap();
    let world = world.again([8; 16], false);
    world.suppressions.keep_up().await;
    let world = world.again([8; 16], false);
    for number in 0..50 {
        let address = mailbox(&format!("user{number}@example.com"));
        let listing = world.suppressions.list(None, Filter::default()).unwrap();
        assert!(listing.find(&address).unwrap().is_some());
    }
    // From now on only hashes: those that are there become some at the next start.
    let world = world.again([8; 16], true);
    world.suppressions.keep_up().await;
    let listed = world.listed(None, Filter::default());
    assert!(listed.iter().all(|listed| listed.kept.address.is_none()));
    assert_eq!(world.again([8; 16], false).suppressions.count(), 50);
}

#[tokio::test]
async fn what_could_not_be_written_down_does_not_hold() {
    let world = World::new();
    let place = place(1, "outbound");
    world.disk.fail(1, Fault::EioFromHere);
    let new = New {
        address: Address::parse("ada@example.com").unwrap(),
        suppression: Suppression::BY_CUSTOMER,
        since: None,
    };
    let made = world
        .suppressions
        .suppress(place.clone(), vec![new], Evidence::default());
    assert_eq!(made.await, Err(Trouble::Log(AppendError::Stopped)));
    let ada = mailbox("ada@example.com");
    assert_eq!(world.suppressions.set().of(1, "outbound", &ada), None);
}

/// The index of a section leads to each address.
#[tokio::test]
async fn one_of_many_is_found_in_the_base() {
    let world = World::new();
    let place = place(1, "outbound");
    let address = |number: u32| format!("somebody.with.a.rather.long.name.{number}@example.com");
    for batch in 0..10 {
        let news = (0..1_000).map(|number| New {
            address: Address::parse(&address(batch * 1_000 + number)).unwrap(),
            suppression: Suppression::BY_CUSTOMER,
            since: None,
        });
        let made = world
            .suppressions
            .suppress(place.clone(), news.collect(), Evidence::default());
        assert_eq!(made.await.unwrap().len(), 1_000);
    }
    world.suppressions.write_base().await.unwrap();
    let world = world.again([7; 16], false);
    let find = |text: &str| {
        let listing = world.suppressions.list(None, Filter::default()).unwrap();
        listing.find(&mailbox(text)).unwrap()
    };
    for number in (0..10_000).step_by(97) {
        let found = find(&address(number)).unwrap_or_else(|| panic!("{number}"));
        assert_eq!(found.kept.address.as_deref(), Some(&*address(number)));
    }
    assert_eq!(find(&address(10_000)), None);
}
