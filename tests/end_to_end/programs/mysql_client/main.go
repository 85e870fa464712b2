// SPDX-License-Identifier: Apache-2.0

// A client of MySQL that sets CLIENT_DEPRECATE_EOF: prints how many rows each query gave.
package main

import (
	"database/sql"
	"fmt"
	"os"

	_ "github.com/go-sql-driver/mysql"
)

func rows(db *sql.DB, text string, arguments ...any) {
	found, err := db.Query(text, arguments...)
	number := 0
	if err == nil {
		for found.Next() {
			number++
		}
		err = found.Err()
		found.Close()
	}
	if err != nil {
		number = -1
	}
	fmt.Println(number)
}

func main() {
	db, err := sql.Open("mysql", os.Args[1])
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(1)
	for id := range 4 {
		rows(db, "SELECT id, name FROM users WHERE id > ?", id)
	}
	rows(db, "SELECT id FROM users")
	rows(db, "SELECT n FROM numbers LIMIT 200")
	rows(db, "SELECT id FROM missing")
	db.Close()
}
