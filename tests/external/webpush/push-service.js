// Runs the npm package web-push-testing as a push service on a free loopback port.
//
// The package's own command takes a fixed port and listens on every interface; only that is
// different here. Every request is answered by the package's code: it checks the TTL and the
// VAPID token (by jsonwebtoken) and decrypts each message (by http_ece) with keys of its own.
//
// Prints one line, `{"url": "http://127.0.0.1:PORT"}`, when it is ready. It ends when its
// standard input is closed, so it cannot outlive the test that started it.
'use strict';

const http = require('http');
const {PushApiModel} = require('web-push-testing/src/PushApiModel.js');
const TestingServer = require('web-push-testing/src/server.js');

const model = new PushApiModel();
const service = new TestingServer(model, 0);
service._app.listen = () => {
	const server = http.createServer(service._app);
	server.listen(0, '127.0.0.1', () => {
		const url = `http://127.0.0.1:${server.address().port}`;
		model.notifyUrl = `${url}/notify/`;
		process.stdout.write(`${JSON.stringify({url})}\n`);
	});
	return server;
};
service.startServer();

process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
