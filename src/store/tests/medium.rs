//! A medium that refuses to read: it costs what it refuses, is counted, and holds up nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::*;
use crate::store::disk::{DiskFile, Entry, LockGuard, Mode};

/// As the operating system numbers them.
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;

/// Reading bytes `from..to` of files whose path ends with `path` answers `error`.
#[derive(Clone)]
struct Refusal {
    path: String,
    from: u64,
    to: u64,
    error: i32,
}

/// A disk that refuses to read.
#[derive(Clone)]
struct BadMedium {
    disk: SimDisk,
    refusals: Arc<Mutex<Vec<Refusal>>>,
}

struct BadFile {
    file: Arc<dyn DiskFile>,
    medium: BadMedium,
    path: PathBuf,
}

impl BadMedium {
    fn new(disk: SimDisk) -> Self {
        Self { disk, refusals: Arc::default() }
    }

    fn refuse(&self, path: &str, from: u64, to: u64, error: i32) {
        let path = path.to_owned();
        self.refusals.lock().unwrap().push(Refusal { path, from, to, error });
    }

    fn heal(&self) {
        self.refusals.lock().unwrap().clear();
    }

    fn check(&self, path: &Path, from: u64, to: u64) -> io::Result<()> {
        let path = path.to_str().unwrap();
        let refusals = self.refusals.lock().unwrap();
        let hit = |r: &&Refusal| path.ends_with(&r.path) && from < r.to && r.from < to;
        match refusals.iter().find(hit) {
            Some(refusal) => Err(io::Error::from_raw_os_error(refusal.error)),
            None => Ok(()),
        }
    }

    fn store(&self, config: Config) -> (Store, RecoveryReport) {
        Store::open(config, Arc::new(self.clone()), TestClock::new()).unwrap()
    }
}

impl Disk for BadMedium {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.check(path, 0, 1)?;
        self.disk.list(path)
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let (file, path) = (self.disk.open(path, mode)?, path.to_path_buf());
        Ok(Arc::new(BadFile { file, medium: self.clone(), path }))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.disk.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }
}

impl DiskFile for BadFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.medium.check(&self.path, at, at + buf.len() as u64)?;
        self.file.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(buf, at)
    }

    fn allocate(&self, len: u64) -> io::Result<bool> {
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

/// Three segments of 100 records, 200 bytes each on the disk, and some more.
fn large() -> Config {
    Config { segment_bytes_max: 64 + 100 * 200 + 64, ..config() }
}

/// 310 records in a store that was closed.
async fn full() -> (SimDisk, Vec<String>) {
    let disk = SimDisk::new();
    let (store, _) = Store::open(large(), Arc::new(disk.clone()), TestClock::new()).unwrap();
    let mut client = Client::new(&store);
    for n in 0..310u32 {
        client.append(&[n.to_le_bytes()[0]; 160]).await.unwrap();
    }
    store.close().await;
    let segments = segments(&disk);
    assert_eq!(segments.len(), 4);
    (disk.kill(), segments)
}

/// Reads all that can be read; gives the offsets, the ranges lost, and how often it was refused.
async fn drain(queue: &Queue) -> (Vec<u64>, Vec<std::ops::Range<u64>>, u32) {
    let (mut next, mut got, mut lost, mut errors) = (queue.settled(), vec![], vec![], 0);
    loop {
        match queue.read(next, 1000, usize::MAX).await {
            Ok(chunk) if chunk.next == next => return (got, lost, errors),
            Ok(chunk) => {
                got.extend(offsets(&chunk));
                lost.extend(chunk.lost.iter().map(|range| range.start.0..range.end.0));
                next = chunk.next;
            }
            Err(ReadError::Io { .. }) => errors += 1,
            Err(ReadError::Stopping) => panic!("the runtime is here"),
        }
        assert!(errors < 50, "it never ends");
    }
}

/// Each case: bytes of the second segment that are refused, and the offsets that this costs.
#[tokio::test]
async fn what_the_medium_refuses_to_read_is_given_up_after_five_tries() {
    for (from, to, lost) in [
        // Block 1 is bytes 4096..8192: records 20 to 40 of the segment touch it.
        (5000, 5001, 120..141),
        (64, 65, 100..121),
        (20_000, 20_001, 181..200),
        (0, u64::MAX, 100..200),
    ] {
        let (disk, segments) = full().await;
        let medium = BadMedium::new(disk);
        let (store, report) = medium.store(large());
        assert_eq!((report.records, report.proven_lost), (310, 0));
        medium.refuse(&segments[1], from, to, EIO);
        let mut removed = store.removed().unwrap();
        let queue = store.queue(&main_queue()).await.unwrap();
        let (got, ranges, errors) = drain(&queue).await;
        assert_eq!(errors, 4, "{from}: the fifth try goes on without; {ranges:?}");
        assert_eq!(ranges, std::slice::from_ref(&lost), "{from}");
        let want: Vec<u64> = (0..310).filter(|offset| !lost.contains(offset)).collect();
        assert_eq!(got, want, "{from}");
        assert_eq!(drain(&queue).await, (got, ranges, 0), "told again, not tried again");
        let told = removed.try_recv().unwrap();
        let many = lost.end - lost.start;
        assert_eq!((told.why, told.records), (RemovedWhy::Unreadable, many));
        assert_eq!(told.offsets, Offset(lost.start)..Offset(lost.end));
        assert!(removed.try_recv().is_err(), "told once");
        assert_eq!(store.stats().lost_records, many);
    }
}

#[tokio::test]
async fn want_of_handles_or_of_a_permission_never_gives_up_a_record() {
    for error in [EMFILE, EACCES] {
        let (disk, segments) = full().await;
        let medium = BadMedium::new(disk);
        let (store, _) = medium.store(large());
        medium.refuse(&segments[1], 0, u64::MAX, error);
        let queue = store.queue(&main_queue()).await.unwrap();
        let first = queue.read(Offset(0), 1000, usize::MAX).await.unwrap();
        assert_eq!(first.next, Offset(100), "what lies before is handed out");
        for _ in 0..20 {
            queue.read(first.next, 1000, usize::MAX).await.unwrap_err();
        }
        medium.heal();
        assert_eq!(drain(&queue).await, ((0..310).collect(), vec![], 0));
        assert_eq!(store.stats().lost_records, 0);
    }
}

/// Each case: which segment is refused at the start, and the offsets that this costs; then a new offset.
#[tokio::test]
async fn a_segment_that_cannot_be_read_at_start_is_set_aside() {
    // Nothing proves how many the last one held: it counts as one.
    for (which, lost, counted) in [(0, 0..100, 100), (1, 100..200, 100), (3, 300..310, 1)] {
        let (disk, segments) = full().await;
        let medium = BadMedium::new(disk.clone());
        medium.refuse(&segments[which], 0, u64::MAX, EIO);
        let (store, report) = medium.store(large());
        let many = lost.end - lost.start;
        assert_eq!((report.records, report.proven_lost), (310 - many, counted), "{which}");
        let names = disk.names(&format!("{ROOT}/quarantine"));
        let file = Path::new(&segments[which]).file_name().unwrap().to_str().unwrap();
        assert_eq!(names.len(), 1);
        assert!(names[0].starts_with(&format!("upstream.10--{file}-")), "{names:?}");
        assert_eq!(report.quarantined, [Path::new(ROOT).join("quarantine").join(&names[0])]);
        assert!(store.stats().quarantine_bytes > 0);
        let queue = store.queue(&main_queue()).await.unwrap();
        let want: Vec<u64> = (0..310).filter(|offset| !lost.contains(offset)).collect();
        assert_eq!(drain(&queue).await, (want, vec![], 0));
        Client::new(&store).append(b"new").await.unwrap();
        let chunk = queue.read(Offset(310), 1, 1).await.unwrap();
        assert!(chunk.records[0].offset >= Offset(310), "offsets are not used again");
        drop(store);
        let (_, report) = open(&disk.kill());
        assert_eq!((report.proven_lost, report.records), (0, 311 - many), "counted once");
    }
}

/// Each case: which segment, whether it is without its seal, which bytes are refused at the start, the offsets that this
/// costs, how many are known to be lost, and from which offset on the queue may go on.
#[tokio::test]
async fn a_block_that_cannot_be_read_at_start_costs_only_what_touches_it() {
    for (which, unsealed, from, to, lost, end) in [
        // The records of a block, of an open segment between others, and of the last one.
        (1, true, 5000, 5001, 120..141, 310),
        (1, true, 64, 65, 100..121, 310),
        (1, true, 20_000, 20_001, 181..200, 310),
        (3, true, 0, 1, 300..310, 311),
        // The header of a sealed one: its seal tells. The records are missed when they are read.
        (1, false, 0, 1, 0..0, 310),
        // The block of the seal.
        (1, false, 20_100, 20_128, 181..200, 310),
    ] {
        let (disk, segments) = full().await;
        if unsealed {
            disk.damage(&segments[which], |bytes| bytes.truncate(bytes.len() - 64));
        }
        let medium = BadMedium::new(disk.clone());
        medium.refuse(&segments[which], from, to, EIO);
        let (store, report) = medium.store(large());
        let case = format!("{which}: {from}..{to}");
        let many = lost.end - lost.start;
        let ranges: Vec<_> =
            report.lost.iter().map(|lost| lost.offsets.start.0..lost.offsets.end.0).collect();
        let is_whole_last = which == 3;
        if is_whole_last {
            // Nothing intact is left of it: it is set aside, and counts as one.
            assert_eq!(
                (ranges, report.proven_lost),
                (std::iter::once(300..301).collect::<Vec<_>>(), 1),
                "{case}"
            );
        } else {
            let told = (many > 0).then(|| lost.clone());
            assert_eq!((ranges, report.proven_lost), (Vec::from_iter(told), many), "{case}");
        }
        assert_eq!(report.records, 310 - many, "{case}");
        assert_eq!(report.quarantined.len(), usize::from(many > 0), "{case}");
        // What was kept is in a new file, which the medium does not refuse.
        medium.heal();
        let queue = store.queue(&main_queue()).await.unwrap();
        let want: Vec<u64> = (0..310).filter(|offset| !lost.contains(offset)).collect();
        assert_eq!(drain(&queue).await, (want, vec![], 0), "{case}");
        Client::new(&store).append(b"new").await.unwrap();
        let new = queue.read(Offset(310), 1, 1).await.unwrap().records[0].offset;
        assert!(new >= Offset(end), "{case}: offsets are not used again");
        drop(store);
        let (_, report) = open(&disk.power_cut(1));
        let again = (report.proven_lost, report.records, report.quarantined.len());
        assert_eq!(again, (0, 311 - many, 0), "{case}: counted once");
    }
}

/// The last segment, with its end refused: what was there is not known, so at least one is lost.
#[tokio::test]
async fn a_refused_end_of_the_last_segment_is_a_loss() {
    let disk = SimDisk::new();
    let (store, _) = Store::open(large(), Arc::new(disk.clone()), TestClock::new()).unwrap();
    let mut client = Client::new(&store);
    for n in 0..60 {
        client.append(&[n; 160]).await.unwrap();
    }
    let disk = disk.kill();
    let medium = BadMedium::new(disk.clone());
    medium.refuse(&segments(&disk)[0], 4096, u64::MAX, EIO);
    let (store, report) = medium.store(large());
    // So many lie in the first block as a whole.
    let kept = 20;
    assert_eq!(report.records, kept);
    assert!(report.proven_lost >= 1, "{report:?}");
    let queue = store.queue(&main_queue()).await.unwrap();
    assert_eq!(offsets(&read_all(&queue).await), (0..kept).collect::<Vec<_>>());
    assert_eq!(report.lost[0].offsets.start, Offset(kept));
    medium.heal();
    Client::new(&store).append(b"new").await.unwrap();
    let new = queue.read(Offset(kept), 1, 1).await.unwrap().records[0].offset;
    assert!(new >= Offset(60), "offsets are not used again");
}

#[tokio::test]
async fn a_start_that_cannot_see_what_is_there_is_refused() {
    let (disk, segments) = full().await;
    for (path, error) in [
        (FOLDER, EIO),
        (&format!("{FOLDER}/checkpoint"), EACCES),
        (&format!("{FOLDER}/checkpoint"), EMFILE),
        (&segments[1], EACCES),
        (&segments[1], EMFILE),
    ] {
        let medium = BadMedium::new(disk.kill());
        medium.refuse(path, 0, u64::MAX, error);
        let opened = Store::open(large(), Arc::new(medium), TestClock::new());
        let text = opened.unwrap_err().to_string();
        let todo = if error == EACCES { "chown -R" } else { "check that the volume" };
        assert!(text.contains(path) && text.contains(todo), "{text}");
    }
    let (_, report) = open(&disk.kill());
    assert_eq!((report.records, report.proven_lost), (310, 0), "nothing was changed");
}

/// Each case: which bytes of the checkpoint are refused, whether it counts as lost, and what is settled then. The newest
/// state (120) is in the first slot, the one before (110) in the second.
#[tokio::test]
async fn a_slot_of_a_checkpoint_that_cannot_be_read_is_not_whole() {
    for (from, to, lost, settled) in [(0, 4096, 0, 110), (4096, 8192, 0, 120), (0, 8192, 1, 100)] {
        let (disk, _) = full().await;
        for settled in [110, 120] {
            let (store, _) =
                Store::open(large(), Arc::new(disk.clone()), TestClock::new()).unwrap();
            let queue = store.queue(&main_queue()).await.unwrap();
            queue.settle(Offset(settled));
            store.close().await;
        }
        let medium = BadMedium::new(disk.kill());
        medium.refuse("/checkpoint", from, to, EIO);
        let (store, report) = medium.store(large());
        assert_eq!((report.checkpoints_lost, report.proven_lost), (lost, 0), "{from}..{to}");
        let queue = store.queue(&main_queue()).await.unwrap();
        assert_eq!(queue.settled(), Offset(settled), "{from}..{to}");
        medium.heal();
        assert_eq!(drain(&queue).await, ((settled..310).collect(), vec![], 0));
        // Each of the file's slots takes a state again.
        for settled in [130, 140, 150] {
            queue.settle(Offset(settled));
            store.queue(&main_queue()).await.unwrap();
        }
        store.close().await;
        let (store, report) = open(&disk.power_cut(0));
        assert_eq!((report.checkpoints_lost, report.proven_lost), (0, 0));
        let queue = store.queue(&main_queue()).await.unwrap();
        assert_eq!(queue.settled(), Offset(150), "{from}..{to}");
    }
}

/// Damaged segments are kept aside when they are settled, the oldest go first, and never more than the bound.
#[tokio::test]
async fn a_damaged_segment_is_kept_when_it_is_settled() {
    let size = 64 + 100 * 200 + 64;
    for (max, kept) in [(u64::MAX, 3), (2 * size + 100, 2), (size - 1, 0)] {
        let (disk, segments) = full().await;
        for segment in &segments[..3] {
            disk.damage(segment, |bytes| bytes[1000] ^= 1);
        }
        let config = Config { quarantine_bytes_max: max, ..large() };
        let clock = TestClock::new();
        let real = Arc::new(disk.clone());
        let (store, report) = Store::open(config, real, clock.clone()).unwrap();
        assert_eq!(report.records, 310);
        let queue = store.queue(&main_queue()).await.unwrap();
        for n in 1..=3 {
            drain(&queue).await;
            clock.pass(std::time::Duration::from_millis(7));
            queue.settle(Offset(n * 100));
            // The writer has seen the settle when it answers something later.
            store.queue(&main_queue()).await.unwrap();
        }
        assert_eq!(store.stats().lost_records, 3);
        let names = disk.names(&format!("{ROOT}/quarantine"));
        let file =
            |path: &String| Path::new(path).file_name().unwrap().to_str().unwrap().to_owned();
        let newest = segments[..3].iter().skip(3 - kept).map(file);
        assert_eq!(names.len(), kept);
        for file in newest {
            assert!(names.iter().any(|name| name.contains(&file)), "{file} {names:?}");
        }
        assert_eq!(store.stats().quarantine_bytes, kept as u64 * size);
        assert_eq!(super::segments(&disk), &segments[3..]);
    }
}
