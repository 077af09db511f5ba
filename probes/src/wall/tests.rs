use super::*;

const SLEEPS: u32 = 1;

fn waits(call: Option<u32>, task_state: u32, waits_for_device: Option<bool>) -> Waits {
    waits_for(&Leaving { call, arguments: [1, 1], task_state, waits_for_device })
}

#[test]
fn a_call_says_what_is_waited_for() {
    for (call, state) in [
        (202, WallState::Lock),
        (220, WallState::Lock),
        (45, WallState::Network),
        (232, WallState::Poll),
        (230, WallState::Sleep),
        (61, WallState::Other),
        (syscalls::COMPAT, WallState::Unknown),
        (u32::MAX, WallState::Unknown),
    ] {
        assert_eq!(waits(Some(call), SLEEPS, Some(false)), Waits::For(state), "{call}");
    }
    assert_eq!(waits(Some(syscalls::READ), SLEEPS, Some(false)), Waits::ForDescriptor);
}

#[test]
fn a_wait_that_no_signal_ends_is_for_a_disk_where_files_are_concerned_or_the_kernel_says_so() {
    let disk = Waits::For(WallState::Disk);
    for call in [0, 17, 74, 75, 257] {
        assert_eq!(waits(Some(call), UNINTERRUPTIBLE, Some(false)), disk, "{call}");
    }
    assert_eq!(waits(Some(202), UNINTERRUPTIBLE, Some(true)), disk);
    assert_eq!(waits(None, UNINTERRUPTIBLE, Some(true)), disk, "a page fault");
    assert_eq!(waits(None, UNINTERRUPTIBLE, Some(false)), Waits::For(WallState::Other), "a lock of its mappings");
    assert_eq!(waits(None, UNINTERRUPTIBLE, None), disk, "a kernel that says nothing");
    assert_eq!(waits(Some(17), STOPPED_OR_TRACED, Some(false)), Waits::For(WallState::Other));
}

#[test]
fn who_polls_nothing_sleeps() {
    for (call, arguments, state) in [
        (23, [0, 1], WallState::Sleep),
        (270, [0, 0], WallState::Sleep),
        (23, [1, 0], WallState::Poll),
        (7, [1, 0], WallState::Sleep),
        (271, [0, 1], WallState::Poll),
        (232, [0, 0], WallState::Poll),
    ] {
        let leaving = Leaving { call: Some(call), arguments, task_state: SLEEPS, waits_for_device: None };
        assert_eq!(waits_for(&leaving), Waits::For(state), "{call}");
    }
}

#[test]
fn every_class_of_wait_events_has_its_state() {
    assert_eq!(of_event(0), None);
    for (class, state) in [
        (0x01, WallState::Lock),
        (0x03, WallState::Lock),
        (0x06, WallState::Client),
        (0x0A, WallState::Disk),
        (0x0B, WallState::Unknown),
        (0xFF, WallState::Unknown),
    ] {
        assert_eq!(of_event(class << 24 | 5), Some(state), "{class:#x}");
    }
}

#[test]
fn a_thread_has_no_state_that_only_requests_have() {
    for state in 0..=u8::MAX {
        assert!(usize::from(of_thread(state)) < THREAD_STATES, "{state}");
    }
    assert_eq!(of_thread(WallState::Disk as u8), WallState::Disk as u8);
}

#[test]
fn a_wait_and_the_queue_behind_it_are_what_was_away() {
    for (away, queued) in [(0, 0), (10, 0), (10, 4), (10, 10), (10, 11), (0, u64::MAX)] {
        let (waited, queue) = part(away, queued);
        assert_eq!((waited + queue, queue), (away, queued.min(away)));
    }
}

fn split(wall: &RequestWall, begun_ns: u64, duration_ns: u64) -> Split {
    let mut split = Split { ns: [7; STATES], ..Split::zeroed() };
    wall.split(begun_ns, duration_ns, &mut split);
    assert_eq!(split.ns.iter().sum::<u64>(), duration_ns);
    split
}

#[test]
fn the_parts_of_a_request_are_its_duration_whatever_is_known() {
    let mut wall = RequestWall { sock: 1, ..RequestWall::zeroed() };
    wall.begin(100);
    wall.ns[WallState::OnCpu as usize] = 30;
    wall.ns[WallState::Lock as usize] = 60;
    assert_eq!(split(&wall, 100, 90).ns[WallState::Lock as usize], 60);
    assert_eq!(split(&wall, 100, 95).ns[WallState::Unknown as usize], 5);
    assert_eq!(split(&wall, 60, 130).ns[WallState::Pipeline as usize], 40);
    assert_eq!(split(&wall, 110, 80).ns[WallState::Unknown as usize], 80, "more was counted than it took");
    wall.shared = 1;
    assert_eq!(split(&wall, 100, 90).ns[WallState::Unknown as usize], 90);
}

#[test]
fn a_parallel_worker_says_whom_it_works_for() {
    let leader = |text: &[u8]| {
        let mut name = [0; WORKER_NAME];
        name[..text.len()].copy_from_slice(text);
        leader_of(&name)
    };
    assert_eq!(leader(b"parallel worker for PID 4194304"), 4_194_304);
    assert_eq!(leader(b"parallel worker for PID 7"), 7);
    for none in [b"logical replication launcher".as_slice(), b"", b"parallel worker for PID ", b"parallel worker"] {
        assert_eq!(leader(none), 0, "{none:?}");
    }
    assert_eq!(leader(b"parallel worker for PID 123456789012"), 0, "cut");
}

#[test]
fn the_largest_wait_event_is_found_among_many() {
    let mut wall = RequestWall::zeroed();
    wall.begin(1);
    for round in 0..100 {
        wall.waited(1, 1_000);
        wall.waited(2 + round, 1);
    }
    wall.ns[WallState::Lock as usize] = 100_100;
    let split = split(&wall, 1, 200_000);
    assert_eq!((split.event, split.event_ns), (1, 100_000));
}
