/* Pages of other services (docs/answers.md): one being received, as in rules/remote.py, and those that are kept.
 *
 * `page_head` and `page_body` take a response as it comes, `page_end` its end; then there is a page, or none. Pure,
 * except for the clock, and the lock around the kept pages, which all threads share.
 */
#ifndef REJOINDER_PAGE_H
#define REJOINDER_PAGE_H

#include "program.h"

enum { MAX_PAGE = 1 << 20, PAGE_HEADERS = 2 };

/* Its texts are its own. */
typedef struct {
  buffer type, language, body;
  size_t room;       /* for the body */
  uint32_t status;   /* if the status is what is wrong */
  const char *wrong; /* why it cannot become a page; NULL: it still can */
} page;

/* `code`: the status that the page is for. */
void page_head(page *into, uint32_t code, const header *headers, size_t count);
void page_body(page *into, const buffer *chunks, size_t count);
bool page_end(page *into);
void page_clear(page *old);

/* Put a page into a reply that was made, which then owns it. */
void reply_set_page(reply *made, const page *page);

typedef struct pages pages;
pages *pages_new(void);
void pages_free(pages *old);

/* A copy of the kept page for a request; false: there is none. */
bool pages_find(pages *in, const asking *asked, page *into);
void pages_keep(pages *in, const asking *asked, const page *made);

/* Whether a text is to be logged: every text once, up to a limit. */
bool pages_tell(pages *in, buffer text);

#endif
