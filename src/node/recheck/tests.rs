//! Weeks of looking for records, in virtual time.

use std::sync::Mutex;

use super::*;
use crate::account::outside::{Answer, Telling};
use crate::account::{DomainPatch, KeyNews, Notice};
use crate::config::Config;
use crate::mail::Domain;
use crate::sign::{Algorithm, WholeKey};

const HOUR: UnixMs = 3_600_000;
const DAY: UnixMs = 24 * HOUR;

/// Name servers that hold what the test says.
#[derive(Default)]
struct World {
    records: Mutex<HashMap<String, String>>,
    aliases: Mutex<HashMap<String, String>>,
    silent: Mutex<bool>,
    asked: Mutex<Vec<String>>,
    told: Mutex<Vec<String>>,
}

impl World {
    fn publish(&self, name: &str, text: &str) {
        let mut records = self.records.lock().unwrap();
        records.insert(name.into(), text.into());
    }

    fn withdraw(&self, name: &str) {
        self.records.lock().unwrap().remove(name);
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

impl Outside for World {
    fn texts(&self, name: String) -> Answer<'_, Vec<String>> {
        let found = self.records.lock().unwrap().get(&name).cloned();
        self.asked.lock().unwrap().push(name);
        let answer = match *self.silent.lock().unwrap() {
            true => Err("SERVFAIL".to_owned()),
            false => Ok(found.into_iter().collect()),
        };
        Box::pin(async move { answer })
    }

    fn alias(&self, name: String) -> Answer<'_, Option<Domain>> {
        let aliases = self.aliases.lock().unwrap();
        let target = aliases.get(&name).map(|to| Domain::parse(to).unwrap());
        self.asked.lock().unwrap().push(name);
        let answer = match *self.silent.lock().unwrap() {
            true => Err("SERVFAIL".to_owned()),
            false => Ok(target),
        };
        Box::pin(async { answer })
    }

    fn spf_permits(&self, _: String) -> Answer<'_, bool> {
        Box::pin(async { Ok(false) })
    }

    fn tell<'a>(&'a self, news: KeyNews<'a>) -> Telling<'a> {
        let told = format!("{:?} {}", news.fact, news.selector);
        self.told.lock().unwrap().push(told);
        Box::pin(async {})
    }

    fn post(&self, _: Notice) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

struct Bench {
    world: Arc<World>,
    recheck: Recheck,
    rounds: Rounds,
    now: UnixMs,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new(text: &str, files: &[(&str, &[u8])]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (name, pem) in files {
            let path = dir.path().join(name);
            std::fs::write(&path, pem).unwrap();
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, private).unwrap();
        }
        let file = dir.path().join("posthaste.toml");
        let config = Config::parse(text, &file, Some(dir.path()), &|_| None).unwrap();
        let now = 1_772_460_912_907;
        let (settings, _) = Settings::open(Arc::new(config), now).await.unwrap();
        let world = Arc::<World>::default();
        let recheck = Recheck {
            settings: Arc::new(settings),
            outside: Arc::clone(&world) as _,
            checker: None,
            clock: Clock::start(),
        };
        Self {
            world,
            recheck,
            rounds: Rounds::new(7),
            now,
            dir,
        }
    }

    /// As the task does it; returns how many looks there were.
    async fn pass(&mut self, time: UnixMs) -> usize {
        let (end, mut looks) = (self.now + time, 0);
        while self.now < end {
            let snapshot = self.recheck.settings.accounts().load();
            let config = self.recheck.settings.config();
            self.rounds.learn(self.now, &subjects(&snapshot, &config));
            while let Some((who, belief)) = self.rounds.take(self.now) {
                looks += 1;
                let doubted = self.recheck.look(who, belief, self.now).await;
                let snapshot = self.recheck.settings.accounts().load();
                let keys = keys_of(&snapshot, &config, who);
                self.rounds.looked(self.now, who, keys, doubted);
            }
            self.now += 60_000;
        }
        looks
    }

    fn signs(&self, domain: &str) -> Vec<String> {
        let domain = Domain::parse(domain).unwrap();
        let keys = self.recheck.settings.accounts().load();
        let keys = keys.signing_keys(Some(&domain));
        keys.iter().map(|key| key.selector.clone()).collect()
    }
}

#[tokio::test]
async fn a_key_signs_from_its_record_on_pauses_without_it_and_goes_on_by_itself() {
    let mut bench = Bench::new("", &[]).await;
    let settings = Arc::clone(&bench.recheck.settings);
    let new = DomainPatch {
        name: Some("shop.example".into()),
        ed25519: Some(true),
        ..DomainPatch::default()
    };
    let domain = settings.create_domain(&new, bench.now).await.unwrap();
    let records: Vec<(String, String)> = domain
        .keys
        .iter()
        .map(|key| (domain.dkim_host(key), key.record()))
        .collect();
    let selectors: Vec<String> = domain.keys.iter().map(|k| k.selector.clone()).collect();
    let (rsa, short) = (&selectors[0], &selectors[1]);
    assert!(bench.pass(3 * HOUR).await >= 3, "hourly while it waits");
    assert!(bench.signs("shop.example").is_empty() && bench.world.told().is_empty());

    bench.world.publish(&records[0].0, &records[0].1);
    bench.pass(2 * HOUR).await;
    assert_eq!(bench.signs("shop.example"), [rsa.as_str()]);
    assert_eq!(bench.world.told(), [format!("Activated {rsa}")]);
    assert!(settings.domain(domain.id).unwrap().may_send());
    bench.world.publish(&records[1].0, &records[1].1);
    bench.pass(2 * HOUR).await;
    assert_eq!(bench.signs("shop.example"), [rsa.clone(), short.clone()]);
    bench.world.told();
    bench.pass(4 * DAY).await;
    let looks = bench.pass(10 * DAY).await;
    assert!(
        (9..=12).contains(&looks),
        "{looks}: daily when nothing changes"
    );

    // No answer is no answer.
    *bench.world.silent.lock().unwrap() = true;
    bench.pass(3 * DAY).await;
    assert_eq!(bench.signs("shop.example").len(), 2);
    *bench.world.silent.lock().unwrap() = false;
    // Gone for a minute, at the very moment of a look.
    bench.world.withdraw(&records[0].0);
    while bench.world.asked.lock().unwrap().last() != Some(&records[0].0) {
        bench.world.asked.lock().unwrap().clear();
        bench.pass(60_000).await;
        if bench.world.asked.lock().unwrap().contains(&records[0].0) {
            break;
        }
    }
    bench.world.publish(&records[0].0, &records[0].1);
    bench.pass(HOUR).await;
    assert_eq!(bench.signs("shop.example").len(), 2);
    assert!(bench.world.told().is_empty());

    for gone in [None, Some("k=rsa; p="), Some("k=rsa; p=AAAA")] {
        match gone {
            None => bench.world.withdraw(&records[0].0),
            Some(text) => bench.world.publish(&records[0].0, text),
        }
        bench.pass(2 * DAY).await;
        assert_eq!(bench.signs("shop.example"), [short.as_str()], "{gone:?}");
        assert_eq!(bench.world.told(), [format!("Paused {rsa}")]);
        let shown = settings.domain(domain.id).unwrap();
        assert!(shown.dkim_status() == "Failed" && shown.may_send());
        bench.world.publish(&records[0].0, &records[0].1);
        bench.pass(2 * HOUR).await;
        assert_eq!(bench.signs("shop.example"), [rsa.clone(), short.clone()]);
        assert_eq!(bench.world.told(), [format!("Resumed {rsa}")]);
    }
}

#[tokio::test]
async fn a_new_key_follows_when_its_record_is_seen_and_the_old_record_is_shown_while_it_is_needed()
{
    let mut bench = Bench::new("", &[]).await;
    let settings = Arc::clone(&bench.recheck.settings);
    let new = DomainPatch {
        name: Some("shop.example".into()),
        ..DomainPatch::default()
    };
    let id = settings.create_domain(&new, bench.now).await.unwrap().id;
    let publish = |state| {
        let domain = settings.domain(id).unwrap();
        let key = domain.keys.first(state).unwrap();
        let host = domain.dkim_host(key);
        bench.world.publish(&host, &key.record());
        key.selector.clone()
    };
    let first = publish(KeyState::Pending);
    bench.pass(2 * HOUR).await;
    settings.rotate_dkim(id, None, bench.now).await.unwrap();
    bench.pass(DAY).await;
    assert_eq!(bench.signs("shop.example"), [first.as_str()]);
    let publish = |state| {
        let domain = settings.domain(id).unwrap();
        let key = domain.keys.first(state).unwrap();
        let host = domain.dkim_host(key);
        bench.world.publish(&host, &key.record());
        key.selector.clone()
    };
    let second = publish(KeyState::Pending);
    bench.pass(2 * HOUR).await;
    assert_eq!(bench.signs("shop.example"), [second.as_str()]);
    let domain = settings.domain(id).unwrap();
    let old = domain.keys.first(KeyState::Revoked).unwrap();
    assert_eq!(old.selector, first);
    let until = old.needed_until().unwrap();
    assert!(!domain.safe_to_remove(until - 1) && domain.safe_to_remove(until));
    // A second rotation does not forget what is still needed of the first.
    settings.rotate_dkim(id, None, bench.now).await.unwrap();
    let third = {
        let domain = settings.domain(id).unwrap();
        let key = domain.keys.first(KeyState::Pending).unwrap();
        bench.world.publish(&domain.dkim_host(key), &key.record());
        key.selector.clone()
    };
    bench.pass(2 * HOUR).await;
    let domain = settings.domain(id).unwrap();
    let revoked: Vec<&str> = domain.keys.revoked().map(|k| &*k.selector).collect();
    assert_eq!(revoked, [&*first, &*second]);
    // Taken out of use at once.
    settings.revoke_dkim(id, &third, bench.now).await.unwrap();
    assert!(bench.signs("shop.example").is_empty());
    let added = settings.add_dkim(id, Algorithm::Rsa, bench.now).await;
    assert!(added.is_ok());
}

#[tokio::test]
async fn keys_of_the_configuration_sign_at_once_and_are_looked_for_all_the_same() {
    let (old, new) = (
        include_bytes!("../../sign/testdata/rsa2048.pkcs1.pem"),
        include_bytes!("../../sign/testdata/rsa1024.pkcs8.pem"),
    );
    let platform = include_bytes!("../../sign/testdata/ed25519.pem");
    let text = "[[domain]]\nname = \"declared.example\"\ndkim = [{ selector = \"new\", key_file = \"new.pem\" }, { selector = \"old\", key_file = \"old.pem\" }]\n[dkim]\ndomain = \"esp.example\"\nkeys = [{ selector = \"all\", key_file = \"all.pem\" }]\n";
    let files: [(&str, &[u8]); 3] = [("old.pem", old), ("new.pem", new), ("all.pem", platform)];
    let mut bench = Bench::new(text, &files).await;
    assert_eq!(bench.signs("declared.example"), ["new", "all"]);
    assert_eq!(bench.signs("other.example"), ["all"]);
    for (host, pem) in [
        ("old._domainkey.declared.example", &old[..]),
        ("all._domainkey.esp.example", platform),
    ] {
        let key = WholeKey::from_pem(pem).unwrap();
        let record = format!("v=DKIM1; k={}; p={}", key.algorithm.as_str(), key.public);
        bench.world.publish(host, &record);
    }
    // The new one's record is not there yet: the old one signs meanwhile.
    bench.pass(HOUR).await;
    assert_eq!(bench.signs("declared.example"), ["old", "all"]);
    assert_eq!(bench.world.told(), ["Paused new"]);
    bench.world.withdraw("all._domainkey.esp.example");
    bench.pass(2 * HOUR).await;
    assert_eq!(bench.signs("declared.example"), ["old"]);
    assert!(bench.signs("other.example").is_empty());
    // What was seen outlives a start.
    let settings = &bench.recheck.settings;
    let config = settings.config();
    settings.close().await;
    let (again, _) = Settings::open(config, bench.now).await.unwrap();
    let keys = again.accounts().load();
    let keys = keys.signing_keys(Domain::parse("declared.example").ok().as_ref());
    assert_eq!(keys.len(), 1);
}

#[tokio::test]
async fn a_domain_without_keys_is_looked_at_like_any_other() {
    let mut bench = Bench::new("[[domain]]\nname = \"declared.example\"\n", &[]).await;
    assert!(bench.pass(2 * DAY).await >= 40, "hourly at first");
    bench.pass(2 * DAY).await;
    let before = bench.recheck.settings.accounts().load();
    let looks = bench.pass(10 * DAY).await;
    assert!((9..=12).contains(&looks), "{looks}: daily later");
    // Nothing was found, so nothing was written: everybody still reads the same settings.
    let after = bench.recheck.settings.accounts().load();
    assert!(Arc::ptr_eq(&before, &after));
}

#[tokio::test]
async fn a_return_path_that_was_an_alias_of_the_former_bounce_domain_is_not_used_and_looked_for_soon()
 {
    const RETURN_PATH: &str = "pm.shop.example";
    let text = |bounce: &str| {
        format!("[node]\nhostname = \"mta.example\"\n[bounce]\ndomain = \"{bounce}\"\n")
    };
    let mut bench = Bench::new(&text("old.example"), &[]).await;
    let settings = Arc::clone(&bench.recheck.settings);
    let new = DomainPatch {
        name: Some("shop.example".into()),
        return_path: Some(RETURN_PATH.into()),
        ..DomainPatch::default()
    };
    let id = settings.create_domain(&new, bench.now).await.unwrap().id;
    let from = Domain::parse("shop.example").unwrap();
    let bounces_to = || {
        let snapshot = settings.accounts().load();
        snapshot.bounce_domain(Some(&from)).map(str::to_owned)
    };
    let world = Arc::clone(&bench.world);
    let point_to = |target: &str| {
        let mut aliases = world.aliases.lock().unwrap();
        aliases.insert(RETURN_PATH.into(), target.into());
    };
    point_to("old.example");
    bench.pass(5 * DAY).await;
    assert_eq!(bounces_to().as_deref(), Some(RETURN_PATH));
    // A look that finds it there once more changes nothing.
    let known = settings.domain(id).unwrap();
    let looked = settings.verify_return_path(id, &*world).await.unwrap();
    let now = settings.domain(id).unwrap();
    assert!(Arc::ptr_eq(&known, &looked) && Arc::ptr_eq(&known, &now));

    let file = bench.dir.path().join("posthaste.toml");
    let changed = Config::parse(&text("new.example"), &file, Some(bench.dir.path()), &|_| {
        None
    });
    let changed = Arc::new(changed.unwrap());
    settings.reload(changed, bench.now).await.unwrap();
    assert_eq!(bounces_to().as_deref(), Some("new.example"));
    // While nobody answers it stays so, and nothing is forgotten.
    *world.silent.lock().unwrap() = true;
    world.asked.lock().unwrap().clear();
    bench.pass(10 * 60_000).await;
    assert!(
        world
            .asked
            .lock()
            .unwrap()
            .contains(&RETURN_PATH.to_owned())
    );
    let attributes = settings.domain(id).unwrap().attributes.clone();
    assert!(attributes.is_alias_of_another("new.example"));
    *world.silent.lock().unwrap() = false;
    point_to("new.example");
    bench.pass(2 * HOUR).await;
    assert_eq!(bounces_to().as_deref(), Some(RETURN_PATH));
}

#[test]
fn looks_of_many_domains_are_spread_and_none_is_forgotten() {
    let mut rounds = Rounds::new(1);
    let keys = |checked| Keys {
        changed: 0,
        checked,
        mark: 1,
        stale: false,
    };
    let start = 30 * DAY;
    let all: Vec<(Subject, Keys)> = (1..=10_000)
        .map(|id| (Subject::Domain(id), keys(Some(start - DAY))))
        .collect();
    rounds.learn(start, &all);
    let (mut now, mut busiest) = (start, 0);
    let mut looked: HashMap<Subject, u32> = HashMap::new();
    while now < start + 10 * DAY {
        let mut at_once = 0;
        while let Some((who, _)) = rounds.take(now) {
            at_once += 1;
            *looked.entry(who).or_default() += 1;
            // Of some the answer never comes.
            if who != Subject::Domain(3) {
                rounds.looked(now, who, Some(keys(Some(now))), false);
            }
        }
        busiest = busiest.max(at_once);
        now += 60_000;
    }
    assert_eq!(looked.len(), 10_000);
    assert!(
        looked
            .iter()
            .all(|(who, n)| *who == Subject::Domain(3) || (8..=12).contains(n))
    );
    assert!(looked[&Subject::Domain(3)] > 100);
    assert!(busiest < 500, "{busiest} in a minute");
    rounds.learn(now, &all[..1]);
    assert_eq!((rounds.planned.len(), rounds.due.len()), (1, 1));
}
