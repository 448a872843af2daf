/* Pages of other services (docs/answers.md): what comes of one, as rules/remote.py has it, and those that are kept.
 *
 * `page_head` and `page_body` are told a response as it comes, `page_end` that it has ended; then the page is there, or
 * it is not. Pure, but for the clock, and the lock around what is kept, which all threads share.
 */
#ifndef REJOINDER_PAGE_H
#define REJOINDER_PAGE_H

#include "program.h"

enum { MAX_PAGE = 1 << 20, PAGE_HEADERS = 2 };

/* Its texts are its own. */
typedef struct {
  buffer type, language, body;
  size_t room;       /* for the body */
  uint32_t status;   /* if that is what is wrong */
  const char *wrong; /* why nothing becomes a page of it any more; NULL: it may */
} page;

/* `code`: the status that it is for. */
void page_head(page *into, uint32_t code, const header *headers, size_t count);
void page_body(page *into, const buffer *chunks, size_t count);
bool page_end(page *into);
void page_clear(page *old);

/* Put a page into a reply that was made, and take it as long as that is there. */
void reply_set_page(reply *made, const page *page);

typedef struct pages pages;
pages *pages_new(void);
void pages_free(pages *old);

/* A copy of the page that is kept for a request; false: there is none. */
bool pages_find(pages *in, const asking *asked, page *into);
void pages_keep(pages *in, const asking *asked, const page *made);

/* Whether a text is to be logged: each once, and only so many. */
bool pages_tell(pages *in, buffer text);

#endif
