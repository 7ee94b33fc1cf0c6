//! Twins and direct methods over AMQP, and what the service side does with them.

use std::time::Duration;

use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId, Properties, Source,
    Target,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Uuid, Value};
use hub_double::{FaultKind, HubDouble, MethodError};
use serde_json::{Value as Json, json};

use super::client::{Client, EDGE, HUB, admin, edge_token, with_hub};

const DESIRED: &str = "/notifications/twin/properties/desired";

/// Both halves of a pair.
struct Pair {
    _client: Client,
    sender: Sender,
    receiver: Receiver,
    asked: u64,
}

fn properties(pair: &str) -> Fields {
    let mut properties = Fields::new();
    for (key, value) in [
        ("com.microsoft:channel-correlation-id", pair),
        ("com.microsoft:api-version", "2020-09-30"),
    ] {
        properties.insert(Symbol::from(key), Value::String(value.to_owned()));
    }
    properties
}

impl Pair {
    /// The links of `$edgeHub` for `what`.
    async fn open(hub: &HubDouble, what: &str) -> Self {
        let mut client = Client::connect(hub).await;
        let name = format!("{HUB}/devices/{EDGE}/modules/$edgeHub");
        assert_eq!(client.put_token(&name, &edge_token()).await, 200);
        let address = format!("/devices/{EDGE}/modules/%24edgeHub/{what}");
        let sender = Sender::builder()
            .name("out")
            .source(Source::builder().address("out-source").build())
            .target(address.as_str())
            .properties(properties("pair:1"))
            .attach(&mut client.session)
            .await
            .expect("attach");
        let receiver = Receiver::builder()
            .name("in")
            .source(address.as_str())
            .target(Target::builder().address("in-target").build())
            .properties(properties("pair:1"))
            .attach(&mut client.session)
            .await
            .expect("attach");
        Self { _client: client, sender, receiver, asked: 0 }
    }

    async fn ask(&mut self, operation: &str, resource: Option<&str>, body: &str) {
        self.asked += 1;
        let mut annotations = MessageAnnotations::builder().insert("operation", operation);
        if let Some(resource) = resource {
            annotations = annotations.insert("resource", resource);
        }
        let message = Message::builder()
            .message_annotations(annotations.build())
            .properties(
                Properties::builder()
                    .correlation_id(MessageId::from(self.asked.to_string()))
                    .build(),
            )
            .data(Binary::from(body))
            .build();
        self.sender.send(message).await.expect("sent");
    }

    /// What comes next: correlation, annotations, body.
    async fn next(&mut self) -> (Option<MessageId>, MessageAnnotations, String) {
        let delivery = self.receiver.recv::<Body<Value>>().await.expect("a message");
        let message = delivery.into_message();
        let Body::Data(data) = message.body else { panic!("data") };
        let body: Vec<u8> = data.into_iter().flat_map(|data| data.0.into_vec()).collect();
        let correlation = message.properties.and_then(|p| p.correlation_id);
        let text = String::from_utf8(body).expect("text");
        (correlation, message.message_annotations.unwrap_or_default(), text)
    }

    /// Asks and gives status, version and body of the answer.
    async fn operate(
        &mut self,
        operation: &str,
        resource: Option<&str>,
        body: &str,
    ) -> (i32, Option<i64>, String) {
        self.ask(operation, resource, body).await;
        let (correlation, annotations, body) = self.next().await;
        assert_eq!(correlation, Some(MessageId::from(self.asked.to_string())));
        let get = |name: &str| annotations.0.get(&name as &dyn AnnotationKey).cloned();
        let status = match get("status") {
            Some(Value::Int(status)) => status,
            other => panic!("{other:?}"),
        };
        let version = match get("version") {
            Some(Value::Long(version)) => Some(version),
            _ => None,
        };
        (status, version, body)
    }

    async fn get(&mut self) -> Json {
        let (status, _, body) = self.operate("GET", None, " ").await;
        assert_eq!(status, 200);
        serde_json::from_str(&body).expect("JSON")
    }

    /// The next change of desired properties.
    async fn change(&mut self) -> Json {
        let (correlation, annotations, body) = self.next().await;
        assert_eq!(correlation, None);
        assert!(format!("{annotations:?}").contains(DESIRED), "{annotations:?}");
        serde_json::from_str(&body).expect("JSON")
    }
}

#[tokio::test]
async fn a_twin_is_read_reported_and_changed() {
    with_hub(|hub| async move {
        let mut twin = Pair::open(&hub, "twin").await;
        let empty = json!({"desired": {"$version": 1}, "reported": {"$version": 1}});
        assert_eq!(twin.get().await, empty);
        let reported = Some("/properties/reported");
        let answer = twin.operate("PATCH", reported, r#"{"a":{"b":1},"c":2}"#).await;
        assert_eq!(answer, (200, Some(2), String::new()));
        let answer = twin.operate("PATCH", reported, r#"{"a":null}"#).await;
        assert_eq!((answer.0, answer.1), (200, Some(3)));
        assert_eq!(twin.operate("PATCH", reported, "[1]").await.0, 400);
        assert_eq!(twin.operate("PATCH", reported, "{").await.0, 400);
        assert_eq!(twin.operate("FLY", reported, "{}").await.0, 400);
        assert_eq!(twin.get().await["reported"], json!({"c": 2, "$version": 3}));

        // Nobody is told before he asks.
        hub.patch_desired(EDGE, Some("$edgeHub"), &json!({"x": 1}));
        assert_eq!(twin.operate("PUT", Some(DESIRED), "").await.0, 200);
        hub.patch_desired(EDGE, Some("$edgeHub"), &json!({"x": null, "y": {"z": 1}}));
        assert_eq!(twin.change().await, json!({"x": null, "y": {"z": 1}, "$version": 3}));
        let path = "/twins/edge1/modules/$edgeHub";
        let put = json!({"properties": {"desired": {"w": 1}}}).to_string();
        assert_eq!(admin(&hub, "PUT", path, &put).await.0, 200);
        assert_eq!(twin.change().await, json!({"w": 1, "y": null, "$version": 4}));
        assert_eq!(
            admin(&hub, "PATCH", path, r#"{"properties":{"desired":{"a b":1}}}"#).await.0,
            400
        );
        let (status, shown) = admin(&hub, "GET", path, "").await;
        assert_eq!(status, 200);
        let shown: Json = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["moduleId"], "$edgeHub");
        assert_eq!(shown["properties"]["desired"], json!({"w": 1, "$version": 4}));
        assert_eq!(admin(&hub, "GET", "/twins/nobody", "").await.0, 404);
        assert_eq!(admin(&hub, "GET", "/twins/dev1", "").await.0, 200);

        assert_eq!(twin.operate("DELETE", Some(DESIRED), "").await.0, 200);
        hub.patch_desired(EDGE, Some("$edgeHub"), &json!({"v": 1}));
        assert_eq!(twin.get().await["desired"], json!({"v": 1, "w": 1, "$version": 5}));
        let counts = hub.counts();
        let counts =
            (counts.twin_gets, counts.twin_patches, counts.twin_refused, counts.twin_pushes);
        assert_eq!(counts, (3, 2, 3, 2));
    })
    .await;
}

#[tokio::test]
async fn twins_of_the_largest_size_arrive_whole() {
    with_hub(|hub| async move {
        let mut twin = Pair::open(&hub, "twin").await;
        let large: serde_json::Map<String, Json> =
            (0..8).map(|n| (format!("k{n}"), "x".repeat(4000).into())).collect();
        let large = Json::Object(large);
        hub.patch_desired(EDGE, Some("$edgeHub"), &large);
        let body = large.to_string();
        assert_eq!(twin.operate("PATCH", Some("/properties/reported"), &body).await.0, 200);
        for _ in 0..3 {
            let got = twin.get().await;
            assert_eq!(got["desired"]["k7"], large["k7"]);
            assert_eq!(got["reported"]["k0"], large["k0"]);
        }
    })
    .await;
}

#[tokio::test]
async fn faults_refuse_delay_and_leave_gaps() {
    with_hub(|hub| async move {
        let mut twin = Pair::open(&hub, "twin").await;
        hub.fault(hub_double::Fault::new(FaultKind::RefuseTwins { status: 429 }).times(1));
        assert_eq!(twin.operate("GET", None, "").await.0, 429);
        assert_eq!(twin.operate("PUT", Some(DESIRED), "").await.0, 200);
        hub.fault(hub_double::Fault::new(FaultKind::DropDesired).times(1));
        hub.patch_desired(EDGE, Some("$edgeHub"), &json!({"a": 1}));
        hub.patch_desired(EDGE, Some("$edgeHub"), &json!({"b": 1}));
        assert_eq!(twin.change().await, json!({"b": 1, "$version": 3}));
        // A delayed answer is passed by a change.
        hub.fault(hub_double::Fault::new(FaultKind::DelayTwins { ms: 300 }).times(1));
        twin.ask("GET", None, "").await;
        hub.patch_desired(EDGE, Some("$edgeHub"), &json!({"c": 1}));
        assert_eq!(twin.change().await["$version"], 4);
        let (correlation, ..) = twin.next().await;
        assert_eq!(correlation, Some(MessageId::from(twin.asked.to_string())));
    })
    .await;
}

#[tokio::test]
async fn a_method_is_called_and_answered() {
    with_hub(|hub| async move {
        let who = (EDGE, Some("$edgeHub"));
        let brief = Duration::from_millis(200);
        let payload = json!({"in": 5});
        let call = |limit| hub.call_method(who.0, who.1, "reboot", &payload, limit);
        assert_eq!(call(brief).await, Err(MethodError::NotOnline));
        let path = "/twins/edge1/modules/$edgeHub/methods";
        assert_eq!(admin(&hub, "POST", path, r#"{"methodName":"x"}"#).await.0, 404);

        let mut methods = Pair::open(&hub, "methods/devicebound").await;
        assert_eq!(call(brief).await, Err(MethodError::Timeout));
        let answering = async {
            // The one that nobody waits for any more, and the one that is answered.
            for status in [500, 200] {
                let delivery = methods.receiver.recv::<Body<Value>>().await.expect("a call");
                let message = delivery.into_message();
                let name = message.application_properties.expect("the name");
                let name = name.0.get("IoThub-methodname").cloned();
                assert_eq!(name, Some(SimpleValue::String("reboot".into())));
                let id = message.properties.and_then(|p| p.correlation_id).expect("an id");
                let MessageId::Uuid(id) = id else { panic!("{id:?} is no uuid") };
                answer(&mut methods.sender, &id, status).await;
            }
        };
        let (answered, ()) = tokio::join!(call(Duration::from_secs(30)), answering);
        let answered = answered.expect("an answer");
        assert_eq!((answered.status, answered.payload), (200, json!({"done": true})));
        assert_eq!(hub.counts().method_answers, 1);
    })
    .await;
}

async fn answer(sender: &mut Sender, id: &Uuid, status: i32) {
    let message: Message<Data> = Message::builder()
        .properties(Properties::builder().correlation_id(MessageId::Uuid(id.clone())).build())
        .application_properties(
            ApplicationProperties::builder().insert("IoThub-status", status).build(),
        )
        .data(Binary::from(r#"{"done":true}"#))
        .build();
    sender.send(message).await.expect("sent");
}
