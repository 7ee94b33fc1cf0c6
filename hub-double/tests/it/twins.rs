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
use hub_double::{FaultKind, HubDouble, MethodAnswer, MethodError};
use serde_json::{Value as Json, json};

use tokio::net::TcpStream;

use super::client::{Client, EDGE, HUB, admin, edge_token, exchange, with_hub};

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
        let desired = &shown["properties"]["desired"];
        assert_eq!((&desired["w"], &desired["$version"]), (&json!(1), &json!(4)));
        assert_eq!(desired["$metadata"]["w"]["$lastUpdatedVersion"], 4);
        let twin_of_library = hub.twin(EDGE, Some("$edgeHub")).expect("a twin");
        let desired = &twin_of_library["properties"]["desired"];
        assert_eq!(*desired, json!({"w": 1, "$version": 4}), "no metadata");
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
async fn the_service_side_tags_and_guards_its_changes() {
    with_hub(|hub| async move {
        let change = async |method: &str, etag: &str, body: Json| {
            let stream = TcpStream::connect(("127.0.0.1", hub.ports().admin)).await.expect("admin");
            let headers = format!("if-match: {etag}\r\n");
            let body = body.to_string();
            let (status, head, body) =
                exchange(stream, method, "/twins/dev1", &headers, &body).await;
            let etag = head.lines().find_map(|line| line.strip_prefix("etag: "));
            let body: Json = serde_json::from_str(&body).expect("JSON");
            (status, etag.unwrap_or_default().to_owned(), body)
        };
        let tags = json!({"tags": {"site": {"floor": 3, "room": "b"}}});
        let (status, first, shown) = change("PATCH", "*", tags).await;
        assert_eq!((status, &shown["tags"]["site"]["floor"]), (200, &json!(3)));
        assert_eq!(first, format!("\"{}\"", shown["etag"].as_str().expect("an ETag")));
        assert_eq!(shown["properties"]["desired"]["$version"], 1, "tags are no desired change");
        assert_eq!(shown["status"], "enabled");
        assert_eq!(shown["connectionState"], "Disconnected");
        assert_eq!(shown["capabilities"], json!({"iotEdge": false}));

        let both = json!({"tags": {"site": {"room": null}}, "properties": {"desired": {"a": 1}}});
        let (status, second, shown) = change("PATCH", &first, both.clone()).await;
        assert_eq!((status, &shown["tags"]), (200, &json!({"site": {"floor": 3}})));
        assert_eq!(shown["properties"]["desired"]["a"], 1);
        let (status, _, refused) = change("PATCH", &first, both).await;
        assert_eq!(status, 412);
        assert!(refused["Message"].is_string(), "{refused}");
        // A document that was read can be put back; what is missing in it goes.
        let mut document = shown;
        document["tags"] = json!({"only": true});
        let (status, _, shown) = change("PUT", &second, document).await;
        assert_eq!((status, &shown["tags"]), (200, &json!({"only": true})));
        let desired = &shown["properties"]["desired"];
        assert_eq!((&desired["a"], &desired["$version"]), (&json!(1), &json!(3)));
        let large: serde_json::Map<String, Json> =
            (0..3).map(|n| (format!("k{n}"), "x".repeat(4000).into())).collect();
        assert_eq!(change("PATCH", "*", json!({"tags": large})).await.0, 413);
    })
    .await;
}

#[tokio::test]
async fn operations_may_get_no_answer_carried_out_or_not() {
    with_hub(|hub| async move {
        let mut twin = Pair::open(&hub, "twin").await;
        let reported = Some("/properties/reported");
        for (carried_out, property) in [(false, "lost"), (true, "kept")] {
            hub.fault(hub_double::Fault::new(FaultKind::IgnoreTwins { carried_out }).times(1));
            twin.ask("PATCH", reported, &json!({ property: 1 }).to_string()).await;
        }
        // The next answer is that of the GET.
        assert_eq!(twin.get().await["reported"], json!({"kept": 1, "$version": 2}));
        let twin = hub.wait_for_twin(EDGE, Some("$edgeHub"), |twin| {
            twin["properties"]["reported"]["kept"] == 1
        });
        assert_eq!(twin.await["properties"]["reported"]["$version"], 2);
    })
    .await;
}

impl Pair {
    /// The next call: its id and its payload.
    async fn call(&mut self) -> (Uuid, String) {
        let delivery = self.receiver.recv::<Body<Value>>().await.expect("a call");
        let message = delivery.into_message();
        let id = message.properties.and_then(|p| p.correlation_id).expect("an id");
        let MessageId::Uuid(id) = id else { panic!("{id:?} is no uuid") };
        let Body::Data(data) = message.body else { panic!("data") };
        let body = data.into_iter().flat_map(|data| data.0.into_vec()).collect();
        (id, String::from_utf8(body).expect("text"))
    }
}

#[tokio::test]
async fn calls_run_side_by_side_and_late_or_double_answers_reach_nobody() {
    with_hub(|hub| async move {
        let mut methods = Pair::open(&hub, "methods/devicebound").await;
        let (one, two) = (json!(1), json!(2));
        let call = |payload| {
            hub.call_method(EDGE, Some("$edgeHub"), "m", payload, Duration::from_secs(60))
        };
        let answering = async {
            let mut calls = [methods.call().await, methods.call().await];
            calls.sort_by(|a, b| a.1.cmp(&b.1));
            for (id, payload) in calls.iter().rev() {
                let status = if payload == "1" { 201 } else { 202 };
                answer(&mut methods.sender, id, status).await;
                // Once more, and otherwise.
                answer(&mut methods.sender, id, 500).await;
            }
        };
        let (one, two, ()) = tokio::join!(call(&one), call(&two), answering);
        let status = |answer: Result<MethodAnswer, MethodError>| answer.expect("an answer").status;
        assert_eq!((status(one), status(two)), (201, 202));
        assert_eq!(hub.counts().method_answers, 2);
        assert_eq!(hub.counts().method_answers_unwanted, 2);
    })
    .await;
}

#[tokio::test]
async fn who_is_called_may_be_waited_for() {
    with_hub(|hub| async move {
        let none = json!(null);
        let who = (EDGE, Some("$edgeHub"));
        let long = Duration::from_secs(60);
        let call = hub.call_method_when_connected(who, "m", &none, long, long);
        let answering = async {
            let mut methods = Pair::open(&hub, "methods/devicebound").await;
            let (id, payload) = methods.call().await;
            assert_eq!(payload, "");
            answer(&mut methods.sender, &id, 299).await;
            methods
        };
        let (answered, mut methods) = tokio::join!(call, answering);
        assert_eq!(answered.expect("an answer").status, 299);

        hub.fault(hub_double::Fault::new(FaultKind::LoseCalls).times(1));
        let brief = Duration::from_millis(200);
        let call = hub.call_method(EDGE, Some("$edgeHub"), "m", &none, brief);
        assert_eq!(call.await, Err(MethodError::Timeout));
        hub.fault(hub_double::Fault::new(FaultKind::DelayCalls { ms: 50 }).times(1));
        let call = hub.call_method(EDGE, Some("$edgeHub"), "m", &none, long);
        let answering = async {
            let (id, _) = methods.call().await;
            answer(&mut methods.sender, &id, 200).await;
        };
        assert_eq!(tokio::join!(call, answering).0.expect("an answer").status, 200);
    })
    .await;
}

#[tokio::test]
async fn calls_are_refused_as_the_service_does() {
    with_hub(|hub| async move {
        let post = async |body: Json| {
            let path = "/twins/dev1/methods";
            let (status, answer) = admin(&hub, "POST", path, &body.to_string()).await;
            let answer: Json = serde_json::from_str(&answer).expect("JSON");
            (status, answer["Message"].as_str().expect("words").to_owned())
        };
        let (status, words) = post(json!({"methodName": "m"})).await;
        let inner: Json = serde_json::from_str(&words).expect("JSON in JSON");
        assert_eq!((status, &inner["errorCode"]), (404, &json!(404_103)));
        for (body, expected) in [
            (json!({"methodName": "a b"}), 400),
            (json!({"methodName": ""}), 400),
            (json!({"methodName": "m", "connectTimeoutInSeconds": 301}), 400),
            (json!({"methodName": "m", "payload": "x".repeat(128 * 1024)}), 413),
        ] {
            assert_eq!(post(body).await.0, expected);
        }
        let (status, _) =
            admin(&hub, "POST", "/twins/nobody/methods", r#"{"methodName":"m"}"#).await;
        assert_eq!(status, 404);
        let _methods = Pair::open(&hub, "methods/devicebound").await;
        let path = "/twins/edge1/modules/$edgeHub/methods";
        let brief = r#"{"methodName":"m","responseTimeoutInSeconds":1}"#;
        let (status, answer) = admin(&hub, "POST", path, brief).await;
        assert_eq!((status, answer.contains("504101")), (504, true), "{answer}");
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
