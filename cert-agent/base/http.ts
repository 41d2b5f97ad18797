// node:http's functions. An import statement would evaluate everything that node:http exports, including its WebSocket
// classes, which load all of Node's fetch library: 14 MB of each process, and 25 ms of its start.

export const { createServer, request, STATUS_CODES } = process.getBuiltinModule('node:http');
