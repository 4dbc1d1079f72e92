// Package integration holds the end-to-end tests: real containerd, real runc, a real registry, and Sluice as it is built here.
//
// Everything runs in namespaces of its own (see stack.Isolate); what the tests need lies in the packages below. There is no code
// in this one but tests.
package integration
