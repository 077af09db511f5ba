//! Network interfaces: their traffic, and what they are. Connections are not seen here.

use procfs::{
    FromBufRead,
    net::{DeviceStatus, InterfaceDeviceStatus},
};

use super::{Files, Problem, malformed, push};
use crate::model::{catalog::host, metric::Metric, snapshot::Series};

/// How a metric is had from a line of `/proc/net/dev`.
type Column = (&'static Metric, fn(&DeviceStatus) -> u64);

static COLUMNS: [Column; 16] = [
    (&host::NETWORK_RECEIVE_BYTES, |device| device.recv_bytes),
    (&host::NETWORK_RECEIVE_PACKETS, |device| device.recv_packets),
    (&host::NETWORK_RECEIVE_ERRS, |device| device.recv_errs),
    (&host::NETWORK_RECEIVE_DROP, |device| device.recv_drop),
    (&host::NETWORK_RECEIVE_FIFO, |device| device.recv_fifo),
    (&host::NETWORK_RECEIVE_FRAME, |device| device.recv_frame),
    (&host::NETWORK_RECEIVE_COMPRESSED, |device| device.recv_compressed),
    (&host::NETWORK_RECEIVE_MULTICAST, |device| device.recv_multicast),
    (&host::NETWORK_TRANSMIT_BYTES, |device| device.sent_bytes),
    (&host::NETWORK_TRANSMIT_PACKETS, |device| device.sent_packets),
    (&host::NETWORK_TRANSMIT_ERRS, |device| device.sent_errs),
    (&host::NETWORK_TRANSMIT_DROP, |device| device.sent_drop),
    (&host::NETWORK_TRANSMIT_FIFO, |device| device.sent_fifo),
    (&host::NETWORK_TRANSMIT_COLLS, |device| device.sent_colls),
    (&host::NETWORK_TRANSMIT_CARRIER, |device| device.sent_carrier),
    (&host::NETWORK_TRANSMIT_COMPRESSED, |device| device.sent_compressed),
];

/// Adds the traffic of every interface of this network namespace.
pub(super) fn read_traffic(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    let path = files.in_proc("net/dev");
    let text = files.text(&path)?;
    let InterfaceDeviceStatus(devices) =
        InterfaceDeviceStatus::from_buf_read(text.as_bytes()).map_err(|error| malformed(&path, error))?;
    for device in devices.values() {
        for (metric, value) in &COLUMNS {
            push(out, metric, &[&device.name], value(device) as f64);
        }
        // The one counter that /proc/net/dev lacks.
        let path = files.in_sys(format!("class/net/{}/statistics/rx_nohandler", device.name));
        if let Some(count) = files.number(&path) {
            push(out, &host::NETWORK_RECEIVE_NOHANDLER, &[&device.name], count as f64);
        }
    }
    Ok(())
}

/// Adds the state and the properties of every interface. An attribute that the driver lacks or refuses (the
/// carrier of an interface that is down, the speed of a virtual one) is left out.
pub(super) fn read_class(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    let folder = files.in_sys("class/net");
    for device in files.names(&folder) {
        let folder = folder.join(&device);
        let device = device.as_str();
        // bonding_masters stands among the interfaces, but is none.
        if !folder.is_dir() {
            continue;
        }
        for field in host::NETWORK_CLASS {
            if let Some(value) = files.number(&folder.join(field.source)) {
                push(out, &field.metric, &[device], value as f64);
            }
        }
        if let Some(megabits) = files.number(&folder.join("speed")) {
            // -1 is "unknown", and node_exporter passes it on in bytes.
            push(out, &host::NETWORK_SPEED, &[device], (megabits * 1_000_000 / 8) as f64);
        }
        let [address, broadcast, duplex, state, alias] = ["address", "broadcast", "duplex", "operstate", "ifalias"]
            .map(|name| files.attribute(&folder.join(name)).unwrap_or_default().to_owned());
        push(out, &host::NETWORK_UP, &[device], f64::from(u8::from(state == "up")));
        push(out, &host::NETWORK_INFO, &[device, &address, &broadcast, &duplex, &state, &alias], 1.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::tests::values;

    #[test]
    fn traffic_bears_node_exporters_names() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("net")).unwrap();
        let text = "Inter-|   Receive                          |  Transmit\n \
                    face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n\
                    eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        fs::write(root.path().join("net/dev"), text).unwrap();
        fs::create_dir_all(root.path().join("class/net/eth0/statistics")).unwrap();
        fs::write(root.path().join("class/net/eth0/statistics/rx_nohandler"), "17\n").unwrap();
        let mut out = Vec::new();
        read_traffic(&mut Files::new(root.path().into(), root.path().into()), &mut out).unwrap();
        let values: Vec<String> = values(&out)
            .iter()
            .map(|value| value.replace("node_network_", "").replace(r#"_total{device="eth0"}"#, ""))
            .collect();
        assert_eq!(
            values,
            [
                "receive_bytes 1",
                "receive_packets 2",
                "receive_errs 3",
                "receive_drop 4",
                "receive_fifo 5",
                "receive_frame 6",
                "receive_compressed 7",
                "receive_multicast 8",
                "transmit_bytes 9",
                "transmit_packets 10",
                "transmit_errs 11",
                "transmit_drop 12",
                "transmit_fifo 13",
                "transmit_colls 14",
                "transmit_carrier 15",
                "transmit_compressed 16",
                "receive_nohandler 17",
            ]
        );
    }

    #[test]
    fn properties_that_a_driver_lacks_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("class/net/eth0");
        fs::create_dir_all(&folder).unwrap();
        fs::write(root.path().join("class/net/bonding_masters"), "\n").unwrap();
        for (name, text) in [("flags", "0x1003"), ("mtu", "1400"), ("speed", "1000"), ("operstate", "up")] {
            fs::write(folder.join(name), format!("{text}\n")).unwrap();
        }
        let mut out = Vec::new();
        read_class(&mut Files::new(root.path().into(), root.path().into()), &mut out).unwrap();
        assert_eq!(
            values(&out),
            [
                r#"node_network_flags{device="eth0"} 4099"#,
                r#"node_network_mtu_bytes{device="eth0"} 1400"#,
                r#"node_network_speed_bytes{device="eth0"} 125000000"#,
                r#"node_network_up{device="eth0"} 1"#,
                r#"node_network_info{device="eth0",address="",broadcast="",duplex="",operstate="up",ifalias=""} 1"#,
            ]
        );
    }
}
