package store

import "fmt"

// LimitPages makes the file as full as a disk: it may grow by more pages only.
func LimitPages(s *Store, more int) error {
	var have int
	if err := s.write.QueryRow("PRAGMA page_count").Scan(&have); err != nil {
		return err
	}
	_, err := s.write.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", have+more))
	return err
}
