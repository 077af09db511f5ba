// Postgres behind Go's own TLS. Arguments: PORT DATABASE QUERIES. Sends `select 1` so often and reads each answer.
package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strconv"
)

func need(err error) {
	if err != nil {
		panic(err)
	}
}

func untilReady(from io.Reader) {
	var said []byte
	block := make([]byte, 65536)
	for !bytes.HasSuffix(said, []byte("Z\x00\x00\x00\x05I")) {
		length, err := from.Read(block)
		need(err)
		said = append(said, block[:length]...)
	}
}

func main() {
	queries, err := strconv.Atoi(os.Args[3])
	need(err)
	plain, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
	need(err)
	_, err = plain.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47})
	need(err)
	answer := make([]byte, 1)
	_, err = io.ReadFull(plain, answer)
	need(err)
	if answer[0] != 'S' {
		panic("no TLS")
	}
	connection := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
	startup := []byte("\x00\x03\x00\x00user\x00postgres\x00database\x00" + os.Args[2] + "\x00\x00")
	_, err = connection.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(startup)+4)), startup...))
	need(err)
	untilReady(connection)
	for ; queries > 0; queries-- {
		_, err = connection.Write([]byte("Q\x00\x00\x00\x0dselect 1\x00"))
		need(err)
		untilReady(connection)
	}
	_, err = connection.Write([]byte("X\x00\x00\x00\x04"))
	need(err)
	need(connection.Close())
}
