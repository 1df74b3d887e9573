// Sends one push message with the npm package web-push, which encrypts it and signs the VAPID
// token. Reads {subscription, payload (base64), ttl, subject} as JSON from standard input and
// prints {status, location, authorization, publicKey}.
//
// The package only sends over HTTPS itself, so the request it has made is sent by Node's fetch.
'use strict';

const webPush = require('web-push');

async function main() {
	const chunks = [];
	for await (const chunk of process.stdin) {
		chunks.push(chunk);
	}
	const input = JSON.parse(Buffer.concat(chunks).toString());
	const keys = webPush.generateVAPIDKeys();
	const request = webPush.generateRequestDetails(
		input.subscription,
		Buffer.from(input.payload, 'base64'),
		{
			TTL: input.ttl,
			contentEncoding: 'aes128gcm',
			vapidDetails: {subject: input.subject, ...keys},
		},
	);
	const {'Content-Length': _, ...headers} = request.headers;
	const response = await fetch(request.endpoint, {method: request.method, headers, body: request.body});
	process.stdout.write(JSON.stringify({
		status: response.status,
		location: response.headers.get('location'),
		authorization: request.headers.Authorization,
		publicKey: keys.publicKey,
	}));
}

main().catch(error => {
	process.stderr.write(`${error.stack}\n`);
	process.exit(1);
});
