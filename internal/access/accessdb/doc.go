// Package accessdb reads and changes the apps of package access in PostgreSQL. It runs over what package db exports,
// and returns its errors. Whether a change is allowed is decided in the database (sql/functions/35_apps.sql): every one
// takes an admin token, and a token with a scope changes only apps of which every pattern lies inside the scope.
//
// What takes access away (a revocation, disable, disallow, delete) holds on the primary when the call returns, and on a
// standby as soon as that has replayed the change.
package accessdb
