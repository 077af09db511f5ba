//! The part of OpenTelemetry's messages that is sent (opentelemetry-proto 1.5: `metrics/v1/metrics.proto`,
//! `collector/metrics/v1/metrics_service.proto`, and the same of logs). Fields that are left out are not sent, and not read.
//!
//! Not those of the crate opentelemetry-proto: its messages of metrics and logs come with OpenTelemetry's SDK, which nothing here uses.

use prost::Message;

/// AGGREGATION_TEMPORALITY_CUMULATIVE.
pub const CUMULATIVE: i32 = 2;

/// ExportMetricsServiceRequest.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// What it is about.
    #[prost(message, repeated, tag = "1")]
    pub resources: Vec<ResourceMetrics>,
}

/// ExportMetricsServiceResponse.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// What was not taken.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// ExportMetricsPartialSuccess.
#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    /// How much.
    #[prost(int64, tag = "1")]
    pub rejected_data_points: i64,
    /// Why.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// ResourceMetrics.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceMetrics {
    /// Who it is about.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Its metrics, by who measured them.
    #[prost(message, repeated, tag = "2")]
    pub scopes: Vec<ScopeMetrics>,
}

/// Resource.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    /// What tells it from others.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<Attribute>,
}

/// ScopeMetrics.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeMetrics {
    /// Who measured.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// The metrics.
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
}

/// InstrumentationScope.
#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    /// Program.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// KeyValue.
#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    /// Name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// AnyValue.
#[derive(Clone, PartialEq, Message)]
pub struct AnyValue {
    /// One of its kinds.
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5, 6")]
    pub value: Option<Value>,
}

/// The kinds of [`AnyValue`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// string_value.
    #[prost(string, tag = "1")]
    Text(String),
    /// bool_value.
    #[prost(bool, tag = "2")]
    Switch(bool),
    /// int_value.
    #[prost(int64, tag = "3")]
    Whole(i64),
    /// double_value.
    #[prost(double, tag = "4")]
    Number(f64),
    /// array_value.
    #[prost(message, tag = "5")]
    List(ArrayValue),
    /// kvlist_value.
    #[prost(message, tag = "6")]
    Table(KeyValueList),
}

/// ArrayValue.
#[derive(Clone, PartialEq, Message)]
pub struct ArrayValue {
    /// Its values.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

/// KeyValueList.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValueList {
    /// Its values, with their names.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Attribute>,
}

/// Metric; of the three one is set.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub description: String,
    /// UCUM.
    #[prost(string, tag = "3")]
    pub unit: String,
    /// What goes up and down.
    #[prost(message, optional, tag = "5")]
    pub gauge: Option<Gauge>,
    /// What adds up.
    #[prost(message, optional, tag = "7")]
    pub sum: Option<Sum>,
    /// Distributions.
    #[prost(message, optional, tag = "9")]
    pub histogram: Option<Histogram>,
}

/// Gauge.
#[derive(Clone, PartialEq, Message)]
pub struct Gauge {
    /// One for each set of attributes.
    #[prost(message, repeated, tag = "1")]
    pub points: Vec<NumberPoint>,
}

/// Sum.
#[derive(Clone, PartialEq, Message)]
pub struct Sum {
    /// One for each set of attributes.
    #[prost(message, repeated, tag = "1")]
    pub points: Vec<NumberPoint>,
    /// Since when it adds up.
    #[prost(int32, tag = "2")]
    pub temporality: i32,
    /// Whether it only grows.
    #[prost(bool, tag = "3")]
    pub is_monotonic: bool,
}

/// Histogram.
#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    /// One for each set of attributes.
    #[prost(message, repeated, tag = "1")]
    pub points: Vec<HistogramPoint>,
    /// Since when it adds up.
    #[prost(int32, tag = "2")]
    pub temporality: i32,
}

/// NumberDataPoint.
#[derive(Clone, PartialEq, Message)]
pub struct NumberPoint {
    /// When it began to add up; 0 if that is not known.
    #[prost(fixed64, tag = "2")]
    pub start_time_unix_nano: u64,
    /// When it had this value.
    #[prost(fixed64, tag = "3")]
    pub time_unix_nano: u64,
    /// The value.
    #[prost(double, optional, tag = "4")]
    pub as_double: Option<f64>,
    /// What tells it from others of the metric.
    #[prost(message, repeated, tag = "7")]
    pub attributes: Vec<Attribute>,
    /// 1: there is no value any more.
    #[prost(uint32, tag = "8")]
    pub flags: u32,
}

/// HistogramDataPoint.
#[derive(Clone, PartialEq, Message)]
pub struct HistogramPoint {
    /// When it began to add up.
    #[prost(fixed64, tag = "2")]
    pub start_time_unix_nano: u64,
    /// When it had these values.
    #[prost(fixed64, tag = "3")]
    pub time_unix_nano: u64,
    /// How many.
    #[prost(fixed64, tag = "4")]
    pub count: u64,
    /// Their sum.
    #[prost(double, optional, tag = "5")]
    pub sum: Option<f64>,
    /// How many between two bounds; one more than there are bounds.
    #[prost(fixed64, repeated, tag = "6")]
    pub bucket_counts: Vec<u64>,
    /// The bounds.
    #[prost(double, repeated, tag = "7")]
    pub explicit_bounds: Vec<f64>,
    /// What tells it from others of the metric.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<Attribute>,
    /// 1: there is no value any more.
    #[prost(uint32, tag = "10")]
    pub flags: u32,
}

/// ExportLogsServiceRequest.
#[derive(Clone, PartialEq, Message)]
pub struct LogsRequest {
    /// What it is about.
    #[prost(message, repeated, tag = "1")]
    pub resources: Vec<ResourceLogs>,
}

/// ResourceLogs.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceLogs {
    /// Who it is about.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Its records, by who wrote them.
    #[prost(message, repeated, tag = "2")]
    pub scopes: Vec<ScopeLogs>,
}

/// ScopeLogs.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeLogs {
    /// Who wrote.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// The records.
    #[prost(message, repeated, tag = "2")]
    pub records: Vec<LogRecord>,
}

/// LogRecord.
#[derive(Clone, PartialEq, Message)]
pub struct LogRecord {
    /// When it happened.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// When it was known.
    #[prost(fixed64, tag = "11")]
    pub observed_time_unix_nano: u64,
    /// From 1 to 24 (SeverityNumber).
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    /// The same in words.
    #[prost(string, tag = "3")]
    pub severity_text: String,
    /// A sentence.
    #[prost(message, optional, tag = "5")]
    pub body: Option<AnyValue>,
    /// What programs read.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<Attribute>,
    /// What kind of event it is.
    #[prost(string, tag = "12")]
    pub event_name: String,
}

/// Who writes all of it.
pub fn scope() -> Scope {
    Scope { name: "steth".into(), version: env!("CARGO_PKG_VERSION").into() }
}

/// An attribute with a text.
pub fn attribute(key: &str, value: &str) -> Attribute {
    Attribute { key: key.into(), value: Some(Value::Text(value.into()).into()) }
}

impl From<Value> for AnyValue {
    fn from(value: Value) -> Self {
        Self { value: Some(value) }
    }
}
