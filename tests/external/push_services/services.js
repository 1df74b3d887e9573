// Push services as their owners describe them, on a free loopback port, in Node alone: FCM's HTTP v1 interface with Google's
// token endpoint, APNs, a webhook that checks Standard Webhooks' signatures, and a provider of short messages.
//
//     node services.js DIR
//
// Writes into DIR what an operator would have: roots.pem, service-account.json, apns.p8. Prints one JSON object per line:
// first {"event": "ready", "url"}, then one for every request it takes or refuses. Reads one JSON object per line:
//
//     {"answer": "fcm" | "apns" | "webhook" | "sms", "status": 429, "body"?: {..}, "retry_after"?: "7", "times"?: 1}
//                                   what the next such requests are answered, however good they are
//     {"revoke_tokens": true}       bearer tokens given out so far aren't taken any more
//     {"goaway": true}              closes all HTTP/2 connections as a server does that shuts down
//     {"webhook_secret": "whsec_.."}
//
// Each is confirmed by {"event": "done"}. It ends when its standard input is closed.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const http2 = require('http2');
const path = require('path');
const readline = require('readline');
const {execFileSync} = require('child_process');

const dir = process.argv[2];
const file = name => path.join(dir, name);
const say = object => process.stdout.write(`${JSON.stringify(object)}\n`);

const PROJECT = 'halloo-test';
const EMAIL = 'gateway@halloo-test.iam.gserviceaccount.com';
const KEY_ID = 'ABC123DEFG';
const TEAM_ID = 'DEF123GHIJ';
const SCOPE = 'https://www.googleapis.com/auth/firebase.messaging';

const rsa = crypto.generateKeyPairSync('rsa', {modulusLength: 2048});
const ec = crypto.generateKeyPairSync('ec', {namedCurve: 'P-256'});
const pem = key => key.export({type: 'pkcs8', format: 'pem'});

execFileSync('openssl', [
	'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=push services',
	'-addext', 'subjectAltName=IP:127.0.0.1', '-addext', 'basicConstraints=critical,CA:FALSE',
	'-keyout', file('tls.key'), '-out', file('roots.pem'),
], {stdio: 'ignore'});

const state = {tokens: new Set(), answers: {fcm: [], apns: [], webhook: [], sms: []}, sessions: new Set(), connections: 0};

/** The claims of a token, if it is signed by `key`; an error says why not. */
function verifyJwt(token, algorithm, key) {
	const [head, claims, signature, more] = token.split('.');
	if (more !== undefined || signature === undefined) throw new Error('not a token');
	const header = JSON.parse(Buffer.from(head, 'base64url'));
	if (header.alg !== algorithm) throw new Error(`algorithm ${header.alg}`);
	const signed = Buffer.from(`${head}.${claims}`);
	const options = algorithm === 'ES256' ? {key, dsaEncoding: 'ieee-p1363'} : key;
	if (!crypto.verify('SHA256', signed, options, Buffer.from(signature, 'base64url'))) throw new Error('signature');
	return {header, claims: JSON.parse(Buffer.from(claims, 'base64url'))};
}

const now = () => Math.floor(Date.now() / 1000);

/** Google's token endpoint. */
function token(request, body) {
	const form = new URLSearchParams(body.toString());
	try {
		if (request.headers['content-type'] !== 'application/x-www-form-urlencoded') throw new Error('content type');
		if (form.get('grant_type') !== 'urn:ietf:params:oauth:grant-type:jwt-bearer') throw new Error('grant type');
		const {claims} = verifyJwt(form.get('assertion'), 'RS256', rsa.publicKey);
		if (claims.iss !== EMAIL || claims.scope !== SCOPE || claims.aud !== `${state.url}/token`) throw new Error('claims');
		if (Math.abs(claims.iat - now()) > 60 || claims.exp <= claims.iat || claims.exp - claims.iat > 3600) throw new Error('time');
	} catch (error) {
		say({event: 'token', refused: error.message});
		return [400, {error: 'invalid_grant', error_description: error.message}];
	}
	const access = `ya29.${crypto.randomBytes(24).toString('base64url')}`;
	state.tokens.add(access);
	say({event: 'token'});
	return [200, {access_token: access, expires_in: 3599, token_type: 'Bearer'}];
}

const googleError = (code, status, message, errorCode) => [code, {error: {
	code, status, message,
	details: errorCode ? [{'@type': 'type.googleapis.com/google.firebase.fcm.v1.FcmError', errorCode}] : [],
}}];

function fcm(request, body) {
	const bearer = /^Bearer (.+)$/.exec(request.headers.authorization || '');
	if (!bearer || !state.tokens.has(bearer[1])) {
		say({event: 'fcm', refused: 'unauthenticated'});
		return googleError(401, 'UNAUTHENTICATED', 'Request had invalid authentication credentials.');
	}
	let message;
	try {
		message = JSON.parse(body).message;
		const data = Object.entries(message.data);
		if (data.some(([, value]) => typeof value !== 'string')) throw new Error('data values are strings');
		if (data.reduce((sum, [key, value]) => sum + key.length + value.length, 0) > 4096) throw new Error('Android message is too big');
		if (!/^[0-9]+(\.[0-9]+)?s$/.test(message.android.ttl)) throw new Error('ttl');
		if (!['NORMAL', 'HIGH'].includes(message.android.priority)) throw new Error('priority');
	} catch (error) {
		say({event: 'fcm', refused: error.message});
		return googleError(400, 'INVALID_ARGUMENT', error.message, 'INVALID_ARGUMENT');
	}
	say({event: 'fcm', message, connection: request.connection_number});
	return [200, {name: `projects/${PROJECT}/messages/${Date.now()}`}];
}

function apns(request, body) {
	const refuse = (status, reason) => {
		say({event: 'apns', refused: reason});
		return [status, {reason}];
	};
	const headers = request.headers;
	const device = /^\/3\/device\/([0-9a-f]+)$/.exec(request.url);
	if (request.httpVersionMajor !== 2) return refuse(400, 'NotHttp2');
	if (!device) return refuse(404, 'BadPath');
	const bearer = /^bearer (.+)$/.exec(headers.authorization || '');
	if (!bearer) return refuse(403, 'MissingProviderToken');
	let provider;
	try {
		provider = verifyJwt(bearer[1], 'ES256', ec.publicKey);
		if (provider.header.kid !== KEY_ID || provider.claims.iss !== TEAM_ID) throw new Error('ids');
	} catch (error) {
		return refuse(403, 'InvalidProviderToken');
	}
	if (Math.abs(now() - provider.claims.iat) > 3600) return refuse(403, 'ExpiredProviderToken');
	const type = headers['apns-push-type'];
	if (!['alert', 'background', 'voip'].includes(type)) return refuse(400, 'InvalidPushType');
	if (!headers['apns-topic']) return refuse(400, 'MissingTopic');
	if (headers['apns-topic'].endsWith('.voip') !== (type === 'voip')) return refuse(400, 'TopicDisallowed');
	if (!['5', '10'].includes(headers['apns-priority']) || (type === 'background' && headers['apns-priority'] !== '5')) return refuse(400, 'BadPriority');
	if (!/^[0-9]+$/.test(headers['apns-expiration'] || '')) return refuse(400, 'BadExpirationDate');
	if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(headers['apns-id'] || '')) return refuse(400, 'BadMessageId');
	if (body.length > (type === 'voip' ? 5120 : 4096)) return refuse(413, 'PayloadTooLarge');
	let payload;
	try {
		payload = JSON.parse(body);
	} catch (error) {
		return refuse(400, 'PayloadEmpty');
	}
	if (typeof payload.aps !== 'object') return refuse(400, 'PayloadEmpty');
	say({
		event: 'apns', token: device[1], payload, type, topic: headers['apns-topic'], priority: headers['apns-priority'],
		expiration: Number(headers['apns-expiration']), id: headers['apns-id'], bytes: body.length,
		provider_token: bearer[1], connection: request.connection_number,
	});
	return [200, ''];
}

/** Standard Webhooks: HMAC-SHA-256 over `id.timestamp.body`, and a timestamp of now. */
function webhook(request, body) {
	const {'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature} = request.headers;
	const key = Buffer.from((state.secret || '').replace(/^whsec_/, ''), 'base64');
	const made = crypto.createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest('base64');
	const signed = signature === `v1,${made}` && Math.abs(now() - Number(timestamp)) < 300;
	say({event: 'webhook', signed, id, type: request.headers['content-type'], payload: body.toString('base64')});
	return [signed ? 204 : 401, ''];
}

function sms(request, body) {
	const message = JSON.parse(body);
	say({event: 'sms', key: request.headers.authorization, to: message.to, text: message.text});
	return [202, {id: 'sms-1'}];
}

const services = [
	['fcm', url => url === `/v1/projects/${PROJECT}/messages:send`, fcm],
	['token', url => url === '/token', token],
	['apns', url => url.startsWith('/3/device/'), apns],
	['webhook', url => url === '/webhook', webhook],
	['sms', url => url === '/sms', sms],
];

function answer(request, response, body) {
	const [name, , serve] = services.find(([, takes]) => takes(request.url)) || ['none', null, () => [404, '']];
	const told = (state.answers[name] || []).shift();
	const headers = {'content-type': 'application/json'};
	let [status, content] = [0, ''];
	if (told) {
		[status, content] = [told.status, told.body === undefined ? '' : told.body];
		if (told.retry_after !== undefined) headers['retry-after'] = told.retry_after;
		say({event: name, told: status, connection: request.connection_number});
	} else {
		[status, content] = serve(request, body);
	}
	if (name === 'apns' && request.headers['apns-id']) headers['apns-id'] = request.headers['apns-id'];
	response.writeHead(status, headers);
	response.end(typeof content === 'string' ? content : JSON.stringify(content));
}

const server = http2.createSecureServer({key: fs.readFileSync(file('tls.key')), cert: fs.readFileSync(file('roots.pem')), allowHTTP1: true});
server.on('session', session => {
	session.number = ++state.connections;
	state.sessions.add(session);
	session.on('close', () => state.sessions.delete(session));
	session.on('error', () => {});
});
server.on('request', (request, response) => {
	request.connection_number = request.stream && request.stream.session ? request.stream.session.number : 0;
	const parts = [];
	request.on('data', part => parts.push(part));
	request.on('end', () => {
		const body = Buffer.concat(parts);
		if (request.method !== 'POST') return response.writeHead(405).end();
		answer(request, response, body);
	});
});

const commands = {
	answer: ({answer: name, times = 1, ...told}) => state.answers[name].push(...Array(times).fill(told)),
	revoke_tokens: () => state.tokens.clear(),
	// A frame GOAWAY, then the end once streams are done: RFC 9113 section 6.8.
	goaway: () => state.sessions.forEach(session => session.close()),
	webhook_secret: ({webhook_secret: secret}) => { state.secret = secret; },
};
const lines = readline.createInterface({input: process.stdin});
lines.on('line', line => {
	const command = JSON.parse(line);
	Object.keys(commands).filter(name => name in command).forEach(name => commands[name](command));
	say({event: 'done'});
});
lines.on('close', () => process.exit(0));

server.listen(0, '127.0.0.1', () => {
	state.url = `https://127.0.0.1:${server.address().port}`;
	fs.writeFileSync(file('apns.p8'), pem(ec.privateKey));
	fs.writeFileSync(file('service-account.json'), JSON.stringify({
		type: 'service_account', project_id: PROJECT, private_key_id: 'key-1', private_key: pem(rsa.privateKey),
		client_email: EMAIL, client_id: '1', token_uri: `${state.url}/token`,
	}));
	say({event: 'ready', url: state.url});
});
